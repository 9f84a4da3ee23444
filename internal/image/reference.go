package image

import (
	"cmp"
	"crypto/md5"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"net/url"
	"path/filepath"
	"strings"

	"ingot/internal/glance"
	"ingot/internal/ingot"
)

// Format is the layout of an image, a word of instance_info's image_disk_format.
type Format string

// The formats that can be deployed. Unknown means: find out from the first bytes.
const (
	Unknown Format = ""
	Raw     Format = "raw"
	QCOW2   Format = "qcow2"
)

// Digest is the digest of an image as it is fetched, before anything is unpacked.
type Digest struct {
	// Algorithm is "sha256", "sha512", or "md5" where [Options] allow it.
	Algorithm string
	// Hex is the value in lower-case hexadecimal digits.
	Hex string
}

// String returns algorithm and value with a colon between them.
func (d Digest) String() string { return d.Algorithm + ":" + d.Hex }

// Reference says where an image is, what it must be, and how to read it.
type Reference struct {
	// Source is a URL: http, https or file; or an image of Glance: its UUID, or glance://UUID.
	Source string
	// Digest is required, unless Glance tells it: a machine boots what was asked for, or nothing.
	Digest Digest
	// Checksums is the URL of a file that has the digest, in the form of sha256sum and others,
	// in case that Digest is empty.
	Checksums string
	// Format may be Unknown.
	Format Format
}

// algorithms are those that can be used.
var algorithms = map[string]struct {
	digits int // of a value in hexadecimal
	hash   func() hash.Hash
}{
	"sha256": {64, sha256.New},
	"sha512": {128, sha512.New},
	"md5":    {32, md5.New},
}

// algorithmOf tells from the number of hexadecimal digits which algorithm a digest is of.
func algorithmOf(digits int) string {
	return map[int]string{
		32: "md5", 40: "sha1", 56: "sha224", 64: "sha256", 96: "sha384", 128: "sha512",
	}[digits]
}

// FromInstanceInfo reads the reference from a node's instance_info: image_source,
// image_os_hash_algo with image_os_hash_value or else image_checksum, and image_disk_format.
// It looks at the values only; nothing is fetched. All errors have the kind Invalid and a text
// for the person who set the values. Of opt, AllowedPaths and AllowMD5 count.
func FromInstanceInfo(info map[string]any, opt Options) (Reference, error) {
	words, err := texts(info, "image_source", "image_checksum", "image_os_hash_algo",
		"image_os_hash_value", "image_disk_format")
	if err != nil {
		return Reference{}, err
	}
	if err := missing(words); err != nil {
		return Reference{}, err
	}
	ref := Reference{Source: words["image_source"]}
	if promised(words) {
		if ref.Digest, ref.Checksums, err = digestOf(words, opt.AllowMD5); err != nil {
			return Reference{}, err
		}
	}
	if ref.Format, err = formatOf(words["image_disk_format"]); err != nil {
		return Reference{}, err
	}
	_, err = ref.check(opt.withDefaults())
	return ref, err
}

// texts picks the named values, which must be strings where they are set.
func texts(info map[string]any, keys ...string) (map[string]string, error) {
	words := make(map[string]string, len(keys))
	for _, key := range keys {
		value, ok := info[key]
		if !ok || value == nil {
			continue
		}
		text, ok := value.(string)
		if !ok {
			return nil, ingot.Errorf(ingot.Invalid,
				"instance_info %s is %v; it must be a string", key, value)
		}
		words[key] = strings.TrimSpace(text)
	}
	return words, nil
}

// missing uses the words of Ironic's validation, which clients show and some look for.
func missing(words map[string]string) error {
	var keys []string
	if words["image_source"] == "" {
		keys = append(keys, "'image_source'")
	}
	if _, known := glance.ID(words["image_source"]); !known && !promised(words) {
		keys = append(keys, "'image_checksum' or 'image_os_hash_algo' and 'image_os_hash_value'")
	}
	if keys == nil {
		return nil
	}
	return ingot.Errorf(ingot.Invalid, "Cannot validate image information because one or more "+
		"parameters are missing from the node's instance_info. Missing are: [%s]",
		strings.Join(keys, ", "))
}

// promised tells whether the words say what the digest is, or where it is found.
func promised(words map[string]string) bool {
	return words["image_checksum"] != "" ||
		words["image_os_hash_algo"] != "" && words["image_os_hash_value"] != ""
}

// digestOf returns the digest, or the URL of where to find it. Like Ironic it believes the pair
// of algorithm and value before image_checksum.
func digestOf(words map[string]string, allowMD5 bool) (d Digest, url string, err error) {
	algorithm, value := words["image_os_hash_algo"], words["image_os_hash_value"]
	if algorithm != "" && value != "" {
		d = Digest{strings.ToLower(algorithm), strings.ToLower(value)}
		return d, "", d.check("image_os_hash_value", allowMD5)
	}
	if value = words["image_checksum"]; strings.Contains(value, "://") {
		return Digest{}, value, nil
	}
	// A length that none has is taken for a slip in the most common one.
	d = Digest{cmp.Or(algorithmOf(len(value)), "sha256"), strings.ToLower(value)}
	return d, "", d.check("image_checksum", allowMD5)
}

// check accepts an algorithm that can be used with a value of its length. key names the culprit.
func (d Digest) check(key string, allowMD5 bool) error {
	switch d.Algorithm {
	case "md5":
		if !allowMD5 {
			return ingot.Errorf(ingot.Invalid, "%s is an md5 digest, which %s; or set "+
				"allow_md5_checksum = true in section [image] of the configuration", key, forgeable)
		}
	case "sha1":
		return ingot.Errorf(ingot.Invalid, "%s is a sha1 digest, which %s", key, forgeable)
	}
	a, ok := algorithms[d.Algorithm]
	if !ok {
		return ingot.Errorf(ingot.Invalid, "%s is a digest of the algorithm %q; known are sha256 "+
			"and sha512", key, d.Algorithm)
	}
	if _, err := hex.DecodeString(d.Hex); err != nil || len(d.Hex) != a.digits {
		return ingot.Errorf(ingot.Invalid, "%s %q is not a %s digest, which has %d hexadecimal "+
			"digits", key, d.Hex, d.Algorithm, a.digits)
	}
	return nil
}

const forgeable = "no longer protects against a forged image; set image_os_hash_algo to sha256 " +
	"or sha512 and image_os_hash_value to the output of sha256sum or sha512sum"

func formatOf(word string) (Format, error) {
	switch f := Format(strings.ToLower(word)); f {
	case Unknown, Raw, QCOW2:
		return f, nil
	}
	return Unknown, ingot.Errorf(ingot.Invalid, "image_disk_format is %q; known are raw and "+
		"qcow2. Convert the image with: qemu-img convert -O qcow2 in out", word)
}

// checkSource accepts the URLs that can be fetched and names the way out for the others. key is
// the word of instance_info that source comes from.
func checkSource(key, source string, opt Options) (*url.URL, error) {
	if id, ok := glance.ID(source); ok && key == "image_source" {
		if opt.Glance == nil {
			return nil, glance.ErrNowhere
		}
		return glance.URL(id), nil
	}
	u, err := url.Parse(source)
	if err != nil {
		return nil, ingot.Errorf(ingot.Invalid, "%s is not a URL: %w", key, reason(err))
	}
	switch u.Scheme {
	case "http", "https":
		if u.Host == "" {
			return nil, ingot.Errorf(ingot.Invalid, "%s %s names no host", key, printable(u))
		}
		return u, nil
	case "file":
		if u.Host != "" && u.Host != "localhost" || !filepath.IsAbs(u.Path) {
			return nil, ingot.Errorf(ingot.Invalid, "%s %s must name a file of the "+
				"conductor, as in file:///path/to/image", key, printable(u))
		}
		_, err := allowedDir(u.Path, key, opt.AllowedPaths)
		return u, err
	case "":
		return nil, ingot.Errorf(ingot.Invalid, "%s %s is neither a URL (http://, https:// or file://) "+
			"nor the UUID of an image of Glance", key, printable(u))
	}
	return nil, ingot.Errorf(ingot.Invalid, "%s has the scheme %s://, which is not "+
		"supported; use http://, https://, file://, or the UUID of an image of Glance", key, u.Scheme)
}

// check repeats what FromInstanceInfo found out, for references made elsewhere.
func (r Reference) check(opt Options) (*url.URL, error) {
	u, err := checkSource("image_source", r.Source, opt)
	if err != nil {
		return nil, err
	}
	if _, err := formatOf(string(r.Format)); err != nil {
		return nil, err
	}
	if r.Checksums != "" {
		_, err := checkSource("image_checksum", r.Checksums, opt)
		return u, err
	}
	if u.Scheme == glance.Scheme && r.Digest == (Digest{}) {
		return u, nil
	}
	return u, r.Digest.check("digest", opt.AllowMD5)
}

// printable is u without what may be secret: user, query (signatures of temporary URLs).
func printable(u *url.URL) string {
	if u.Scheme == "" {
		return fmt.Sprintf("%q", u.Path)
	}
	p := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, Opaque: u.Opaque}
	return p.String()
}
