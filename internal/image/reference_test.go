package image_test

import (
	"maps"
	"strings"
	"testing"

	"ingot/internal/image"
	"ingot/internal/ingot"
)

var (
	hex64  = strings.Repeat("0f", 32)
	hex128 = strings.Repeat("0f", 64)
)

func TestInstanceInfoBecomesAReference(t *testing.T) {
	t.Parallel()
	sha256, sha512 := image.Digest{"sha256", hex64}, image.Digest{"sha512", hex128}
	url := "http://images.example/disk.qcow2"
	cases := map[string]struct {
		info map[string]any
		want image.Reference
	}{
		"checksum of 64 digits": {
			map[string]any{"image_source": url, "image_checksum": hex64},
			image.Reference{Source: url, Digest: sha256},
		},
		"checksum of 128 digits in capitals": {
			map[string]any{"image_source": url, "image_checksum": strings.ToUpper(hex128),
				"image_disk_format": "raw"},
			image.Reference{Source: url, Digest: sha512, Format: image.Raw},
		},
		"algorithm and value, beside an md5 that old clients set": {
			map[string]any{"image_source": url, "image_checksum": hex64[:32],
				"image_os_hash_algo": "sha512", "image_os_hash_value": hex128,
				"image_disk_format": "qcow2", "image_type": nil, "root_gb": 10},
			image.Reference{Source: url, Digest: sha512, Format: image.QCOW2},
		},
		"URL of a file of checksums": {
			map[string]any{"image_source": url, "image_checksum": url + ".sha256"},
			image.Reference{Source: url, Checksums: url + ".sha256"},
		},
		"file": {
			map[string]any{"image_source": "file:///var/lib/ingot/images/a/b",
				"image_checksum": " " + hex64 + "\n"},
			image.Reference{Source: "file:///var/lib/ingot/images/a/b", Digest: sha256},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := image.FromInstanceInfo(c.info, image.Options{})
			if err != nil || got != c.want {
				t.Errorf("%+v, %v; want %+v", got, err, c.want)
			}
		})
	}
}

func TestInstanceInfoThatCannotWorkIsRefusedWithTheRemedy(t *testing.T) {
	t.Parallel()
	good := map[string]any{"image_source": "https://images.example/disk", "image_checksum": hex64}
	cases := map[string]struct {
		change map[string]any
		says   []string
	}{
		"no source": {map[string]any{"image_source": nil},
			[]string{"Cannot validate image information", "Missing are: ['image_source']"}},
		"no checksum": {map[string]any{"image_checksum": ""},
			[]string{"Missing are:", "'image_checksum'", "'image_os_hash_value'"}},
		"algorithm alone": {map[string]any{"image_checksum": nil, "image_os_hash_algo": "sha256"},
			[]string{"Missing are:", "'image_os_hash_value'"}},
		"number": {map[string]any{"image_checksum": 12.0}, []string{"image_checksum", "string"}},
		"md5": {map[string]any{"image_checksum": hex64[:32]},
			[]string{"md5", "forged", "sha256sum", "allow_md5_checksum = true"}},
		"md5 by name": {map[string]any{"image_os_hash_algo": "MD5",
			"image_os_hash_value": hex64[:32]}, []string{"md5", "forged"}},
		"sha1":   {map[string]any{"image_checksum": hex64[:40]}, []string{"sha1", "forged"}},
		"sha384": {map[string]any{"image_checksum": hex128[:96]}, []string{"sha384", "known are"}},
		"unknown algorithm": {map[string]any{"image_os_hash_algo": "crc",
			"image_os_hash_value": "1"}, []string{"crc", "sha256 and sha512"}},
		"not hexadecimal": {map[string]any{"image_checksum": strings.Repeat("x", 64)},
			[]string{"64 hexadecimal digits"}},
		"wrong length": {map[string]any{"image_os_hash_algo": "sha512",
			"image_os_hash_value": hex64}, []string{"128 hexadecimal digits"}},
		"checksum of Glance": {map[string]any{"image_checksum": "glance://SHA256SUMS"},
			[]string{"image_checksum", "http://"}},
		"checksum elsewhere": {map[string]any{"image_checksum": "file:///etc/SHA256SUMS"},
			[]string{"image_checksum", "file_url_allowed_paths"}},
		"format": {map[string]any{"image_disk_format": "vmdk"},
			[]string{"vmdk", "raw and qcow2", "qemu-img convert"}},
		"glance": {map[string]any{"image_source": "glance://0f0f"}, []string{"Glance", "http://"}},
		"glance id": {map[string]any{"image_source": "e4d0a8f0-0d5b-4d2c-9a3c-000000000000"},
			[]string{"Glance", "http://"}},
		"oci":          {map[string]any{"image_source": "oci://a/b"}, []string{"oci://", "http://"}},
		"no host":      {map[string]any{"image_source": "http:///disk"}, []string{"no host"}},
		"not a URL":    {map[string]any{"image_source": "http://a b/\x7f"}, []string{"not a URL"}},
		"foreign file": {map[string]any{"image_source": "file://host/x"}, []string{"file:///"}},
		"file elsewhere": {map[string]any{"image_source": "file:///etc/shadow"},
			[]string{"/etc/shadow", "/var/lib/ingot/images", "file_url_allowed_paths"}},
		"file by detour": {map[string]any{
			"image_source": "file:///var/lib/ingot/images/../../../../etc/shadow"},
			[]string{"outside"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			info := maps.Clone(good)
			maps.Copy(info, c.change)
			_, err := image.FromInstanceInfo(info, image.Options{})
			mustFail(t, err, ingot.Invalid, c.says...)
		})
	}
}

func TestMD5IsAcceptedWhereTheConfigurationSaysSo(t *testing.T) {
	t.Parallel()
	opt := image.Options{AllowMD5: true}
	for name, info := range map[string]map[string]any{
		"checksum": {"image_checksum": hex64[:32]},
		"pair":     {"image_os_hash_algo": "md5", "image_os_hash_value": hex64[:32]},
	} {
		info["image_source"] = "http://images.example/disk"
		got, err := image.FromInstanceInfo(info, opt)
		if want := (image.Digest{"md5", hex64[:32]}); err != nil || got.Digest != want {
			t.Errorf("%s: %v, %v; want %v", name, got.Digest, err, want)
		}
	}
	_, err := image.FromInstanceInfo(map[string]any{
		"image_source": "http://images.example/disk", "image_checksum": hex64[:40]}, opt)
	mustFail(t, err, ingot.Invalid, "sha1", "forged")
}
