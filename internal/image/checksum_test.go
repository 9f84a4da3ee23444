package image_test

import (
	"crypto/md5"
	"encoding/hex"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"ingot/internal/image"
	"ingot/internal/ingot"
)

// sums is what a program such as sha256sum prints about the file called name with content b.
func sums(t testing.TB, b []byte, name, program string, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, name), b)
	cmd := exec.Command(program, append(args, name)...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	return string(out)
}

func TestChecksumsMayBePublishedBesideTheImage(t *testing.T) {
	t.Parallel()
	want := disk(300_000)
	gnu, other := sums(t, want, "disk", "sha256sum"), sums(t, []byte("x"), "disk.iso", "sha256sum")
	bsd := sums(t, want, "disk", "sha512sum", "--tag")
	wrong := strings.Repeat("0", 64)
	for name, text := range map[string]string{
		"sha256sum":         other + gnu,
		"binary mode":       sums(t, want, "disk", "sha256sum", "-b"),
		"with a path":       strings.Replace(gnu, "disk", "./images/disk", 1),
		"BSD":               "# disk: 300000 bytes\n" + bsd,
		"openssl":           sums(t, want, "disk", "openssl", "dgst", "-sha256"),
		"bare":              gnu[:64],
		"bare in capitals":  strings.ToUpper(gnu[:64]) + "\r\n",
		"lines of Windows":  "\ufeff" + strings.ReplaceAll(other+gnu, "\n", "\r\n"),
		"signed":            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n" + gnu + "-----BEGIN",
		"the stronger wins": bsd + wrong + "  disk\n",
		"beside a weak one": sums(t, want, "disk", "sha1sum") + sums(t, want, "disk", "md5sum") + gnu,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write(t, filepath.Join(dir, "disk"), want)
			write(t, filepath.Join(dir, "SUMS"), []byte(text))
			server := handle(t, http.FileServer(http.Dir(dir)).ServeHTTP)
			opt := options(t)
			opt.AllowedPaths = []string{dir}
			for _, base := range []string{strings.TrimSuffix(server, "/disk"), "file://" + dir} {
				ref, err := image.FromInstanceInfo(map[string]any{
					"image_source": base + "/disk", "image_checksum": base + "/SUMS",
				}, opt)
				if err != nil {
					t.Fatal(err)
				}
				if err := image.Check(t.Context(), ref, opt); err != nil {
					t.Error(err)
				}
				if got, err := read(t, ref, opt); err != nil || len(got) != len(want) {
					t.Errorf("%d bytes, error %v; want %d bytes", len(got), err, len(want))
				}
			}
		})
	}
}

func TestChecksumsThatDoNotHelpAreRefused(t *testing.T) {
	t.Parallel()
	one, two := strings.Repeat("1", 64), strings.Repeat("2", 64)
	for name, c := range map[string]struct {
		text string
		says []string
	}{
		"empty":          {"", []string{"no digest of \"disk\" (0 of other files)", "sha256sum"}},
		"another file":   {one + "  other\n", []string{"no digest of \"disk\" (1 of other files)"}},
		"two of one":     {one + "  disk\n" + two + " *disk\n", []string{"two sha256 digests"}},
		"two bare":       {one + "\n" + two + "\n", []string{"no digest of \"disk\""}},
		"sha1":           {one[:40] + "  disk\n", []string{"sha1", "forged"}},
		"md5":            {one[:32] + "  disk\n", []string{"md5", "allow_md5_checksum"}},
		"another length": {one + "1  disk\n", []string{"no digest of \"disk\" (0"}},
		"mislabelled":    {"SHA512 (disk) = " + one, []string{"no digest of"}},
		"a web page":     {"<html><title>Log in", []string{"web page", "image_checksum"}},
		"the image":      {strings.Repeat("x", 2<<20), []string{"more than 1048576 bytes"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, _ := serve(t, []byte(c.text))
			ref := image.Reference{Source: url, Checksums: url}
			_, err := read(t, ref, options(t))
			mustFail(t, err, ingot.Invalid, append(c.says, "read checksums "+url)...)
			mustFail(t, image.Check(t.Context(), ref, options(t)), ingot.Invalid, c.says...)
		})
	}
	url := handle(t, http.NotFound)
	_, err := read(t, image.Reference{Source: url, Checksums: url}, options(t))
	mustFail(t, err, ingot.NotFound, "404", "check image_checksum")
}

func TestMD5IsVerifiedWithAWarning(t *testing.T) {
	t.Parallel()
	want := disk(100_000)
	url, _ := serve(t, want)
	sum := md5.Sum(want)
	opt := options(t)
	opt.AllowMD5 = true
	var notes atomic.Value
	opt.Note = func(text string) { notes.Store(text) }
	ref := image.Reference{Source: url, Digest: image.Digest{
		Algorithm: "md5", Hex: hex.EncodeToString(sum[:])}}
	if got, err := read(t, ref, opt); err != nil || len(got) != len(want) {
		t.Errorf("%d bytes, error %v; want %d bytes", len(got), err, len(want))
	}
	if note, _ := notes.Load().(string); !strings.Contains(note, "md5") {
		t.Errorf("noted %q, want a warning about md5", note)
	}
	ref.Digest.Hex = strings.Repeat("0", 32)
	_, err := read(t, ref, opt)
	mustFail(t, err, ingot.Invalid, "checksum of", "md5:0000")
}

func TestHTTPSNeedsACertificateThatIsTrusted(t *testing.T) {
	t.Parallel()
	want := disk(100_000)
	url, ca := serveTLS(t, want)
	ref := image.Reference{Source: url, Digest: sha256Of(want)}
	_, err := read(t, ref, options(t))
	mustFail(t, err, ingot.Unavailable, "certificate", "ca_file")
	opt := options(t)
	if opt.Client, err = image.Client(ca); err != nil {
		t.Fatal(err)
	}
	if got, err := read(t, ref, opt); err != nil || len(got) != len(want) {
		t.Errorf("%d bytes, error %v; want %d bytes", len(got), err, len(want))
	}
	if err := os.WriteFile(ca, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{ca, ca + "-missing"} {
		if _, err := image.Client(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("certificates in %s: error %v, want one that names the file", path, err)
		}
	}
}

func FuzzChecksums(f *testing.F) {
	f.Add([]byte(strings.Repeat("0f", 32)+"  disk\n"), "disk")
	f.Add([]byte("SHA512 (disk) = "+strings.Repeat("0f", 64)), "disk")
	f.Add([]byte("# comment\r\n"+strings.Repeat("0f", 16)+" *dir/disk\r\n"), "disk")
	f.Fuzz(func(t *testing.T, text []byte, name string) {
		d, err := image.FindDigest(text, name, true)
		digits := map[string]int{"md5": 32, "sha256": 64, "sha512": 128}
		if err == nil && len(d.Hex) != digits[d.Algorithm] {
			t.Errorf("%q has the digest %v", text, d)
		}
	})
}
