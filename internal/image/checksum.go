package image

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"

	"ingot/internal/glance"
	"ingot/internal/ingot"
)

// checksumsMax is the size in bytes up to which a file of checksums is read. Those of whole
// distributions have a few kilobytes.
const checksumsMax = 1 << 20

// resolve fetches the digest of the image if the reference only says where it is published, or leaves
// it to Glance.
func (o opener) resolve(ctx context.Context) (opener, error) {
	if o.url.Scheme == glance.Scheme && o.ref.Digest == (Digest{}) && o.ref.Checksums == "" {
		return o.believe(ctx)
	}
	if o.ref.Checksums == "" {
		return o, nil
	}
	u, err := checkSource("image_checksum", o.ref.Checksums, o.opt)
	if err != nil {
		return o, err
	}
	text, err := opener{url: u, name: printable(u), opt: o.opt, checksums: true}.
		readAll(ctx, checksumsMax)
	if err == nil {
		o.ref.Digest, err = findDigest(text, path.Base(o.url.Path), o.opt.AllowMD5)
	}
	if err != nil {
		return o, fmt.Errorf("read checksums %s: %w", printable(u), err)
	}
	return o, nil
}

// believe takes what Glance says of the image: its digest, and how to read it unless the node tells.
func (o opener) believe(ctx context.Context) (opener, error) {
	found, err := o.opt.Glance.Show(ctx, o.url.Host)
	if err != nil {
		return o, err
	}
	switch {
	case found.Hash != "":
		o.ref.Digest = Digest{found.HashAlgorithm, strings.ToLower(found.Hash)}
	case found.MD5 != "":
		o.ref.Digest = Digest{"md5", strings.ToLower(found.MD5)}
	default:
		return o, ingot.Errorf(ingot.Invalid, "Glance tells no digest of image %s; set "+
			"image_os_hash_algo and image_os_hash_value, or upload it again", found)
	}
	if err := o.ref.Digest.check("os_hash_value of image "+found.String(), o.opt.AllowMD5); err != nil {
		return o, err
	}
	if o.ref.Format == Unknown {
		o.ref.Format, err = formatOf(found.DiskFormat)
	}
	if err != nil {
		return o, ingot.Errorf(ingot.Invalid, "image %s has the disk_format %s in Glance; known are raw "+
			"and qcow2. Convert it with: qemu-img convert -O qcow2 in out", found, found.DiskFormat)
	}
	return o, nil
}

// readAll fetches a small file.
func (o opener) readAll(ctx context.Context, most int64) ([]byte, error) {
	t, err := o.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	defer t.during(ctx)()
	text, err := io.ReadAll(io.LimitReader(t.body, most+1))
	if err == nil && int64(len(text)) > most {
		err = ingot.Errorf(ingot.Invalid, "it has more than %d bytes; check that image_checksum "+
			"is the address of a file of checksums and not of the image", most)
	}
	return text, err
}

// listed is a line of a file of checksums.
type listed struct {
	digest Digest
	name   string // base name; empty if the line is nothing but a digest
}

// The forms of lines: of sha256sum and its siblings, of their --tag option and BSD, and of
// openssl dgst. Backslashes at the beginning announce names that no image has.
var (
	lineOfGNU = regexp.MustCompile(`^([0-9A-Fa-f]{32,128})(?:[ \t]+\*?(.+))?$`)
	lineOfBSD = regexp.MustCompile(`^([A-Za-z0-9-]+) ?\((.+)\) ?= ?([0-9A-Fa-f]{32,128})$`)
)

// parseChecksums returns the lines that have a digest. Everything else, such as comments and
// signatures, is passed over.
func parseChecksums(text []byte) []listed {
	var all []listed
	for line := range strings.Lines(strings.TrimPrefix(string(text), "\ufeff")) {
		line = strings.TrimSpace(line)
		if m := lineOfGNU.FindStringSubmatch(line); m != nil && algorithmOf(len(m[1])) != "" {
			l := listed{digest: Digest{algorithmOf(len(m[1])), strings.ToLower(m[1])}}
			if m[2] != "" {
				l.name = path.Base(m[2])
			}
			all = append(all, l)
		} else if m := lineOfBSD.FindStringSubmatch(line); m != nil {
			algorithm := strings.ToLower(strings.NewReplacer("SHA2-", "SHA", "-", "").Replace(m[1]))
			if algorithm == algorithmOf(len(m[3])) { // another one has the same length
				all = append(all, listed{Digest{algorithm, strings.ToLower(m[3])}, path.Base(m[2])})
			}
		}
	}
	return all
}

// findDigest picks the digest of the image with the given name, the strongest if there are
// several. A file that is nothing but one digest is about any image.
func findDigest(text []byte, name string, allowMD5 bool) (Digest, error) {
	if web := bytes.ToLower(bytes.TrimSpace(text)); bytes.HasPrefix(web, []byte("<")) {
		return Digest{}, ingot.Errorf(ingot.Invalid, webPage, "image_checksum",
			text[:min(len(text), 40)])
	}
	all := parseChecksums(text)
	var found Digest
	for _, l := range all {
		if l.name != name && (l.name != "" || len(all) > 1) {
			continue
		}
		if found.Algorithm == l.digest.Algorithm && found != l.digest {
			return Digest{}, ingot.Errorf(ingot.Invalid, "it has two %s digests of %q; set "+
				"image_checksum to the right one", found.Algorithm, name)
		}
		if strengthOf(l.digest) > strengthOf(found) {
			found = l.digest
		}
	}
	if found.Hex == "" {
		return Digest{}, ingot.Errorf(ingot.Invalid, "it has no digest of %q (%d of other files); "+
			"set image_checksum to the digest itself, or publish a line as sha256sum prints it",
			name, len(all))
	}
	return found, found.check("image_checksum", allowMD5)
}

// ranking orders algorithms from those that are refused to the strongest.
var ranking = []string{"", "sha384", "sha224", "sha1", "md5", "sha256", "sha512"}

func strengthOf(d Digest) int { return slices.Index(ranking, d.Algorithm) }
