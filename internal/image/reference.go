package image

import (
	"encoding/hex"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

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
	// Algorithm is "sha256" or "sha512".
	Algorithm string
	// Hex is the value in lower-case hexadecimal digits.
	Hex string
}

// String returns algorithm and value with a colon between them.
func (d Digest) String() string { return d.Algorithm + ":" + d.Hex }

// Reference says where an image is, what it must be, and how to read it.
type Reference struct {
	// Source is a URL: http, https or file.
	Source string
	// Digest is required: a machine boots what was asked for, or nothing.
	Digest Digest
	// Format may be Unknown.
	Format Format
}

// hexDigits maps the algorithms that count as safe to the length of their value.
var hexDigits = map[string]int{"sha256": 64, "sha512": 128}

// weak maps lengths of digests that are refused to the name of their algorithm.
var weak = map[int]string{32: "md5", 40: "sha1", 56: "sha224", 96: "sha384"}

// FromInstanceInfo reads the reference from a node's instance_info: image_source,
// image_os_hash_algo with image_os_hash_value or else image_checksum, and image_disk_format.
// It looks at the values only; nothing is fetched. All errors have the kind Invalid and a text
// for the person who set the values. Of opt, AllowedPaths counts.
func FromInstanceInfo(info map[string]any, opt Options) (Reference, error) {
	words, err := texts(info, "image_source", "image_checksum", "image_os_hash_algo",
		"image_os_hash_value", "image_disk_format")
	if err != nil {
		return Reference{}, err
	}
	if err := missing(words); err != nil {
		return Reference{}, err
	}
	digest, err := digestOf(words)
	if err != nil {
		return Reference{}, err
	}
	format, err := formatOf(words["image_disk_format"])
	if err != nil {
		return Reference{}, err
	}
	ref := Reference{Source: words["image_source"], Digest: digest, Format: format}
	u, err := checkSource(ref.Source)
	if err != nil {
		return Reference{}, err
	}
	if u.Scheme == "file" {
		_, err = allowedDir(u.Path, opt.withDefaults().AllowedPaths)
	}
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
	if words["image_checksum"] == "" &&
		(words["image_os_hash_algo"] == "" || words["image_os_hash_value"] == "") {
		keys = append(keys, "'image_checksum' or 'image_os_hash_algo' and 'image_os_hash_value'")
	}
	if keys == nil {
		return nil
	}
	return ingot.Errorf(ingot.Invalid, "Cannot validate image information because one or more "+
		"parameters are missing from the node's instance_info. Missing are: [%s]",
		strings.Join(keys, ", "))
}

func digestOf(words map[string]string) (Digest, error) {
	if algorithm, value := words["image_os_hash_algo"], words["image_os_hash_value"]; algorithm !=
		"" && value != "" {
		d := Digest{strings.ToLower(algorithm), strings.ToLower(value)}
		return d, d.check("image_os_hash_value")
	}
	value := strings.ToLower(words["image_checksum"])
	if strings.Contains(value, "://") {
		return Digest{}, ingot.Errorf(ingot.Invalid, "image_checksum is a URL, which is not "+
			"supported; set it to the digest itself, for example from sha256sum")
	}
	if name, ok := weak[len(value)]; ok {
		return Digest{}, weakError("image_checksum", name)
	}
	d := Digest{Algorithm: "sha256", Hex: value}
	if len(value) == hexDigits["sha512"] {
		d.Algorithm = "sha512"
	}
	return d, d.check("image_checksum")
}

func weakError(key, algorithm string) error {
	if algorithm == "sha224" || algorithm == "sha384" {
		return ingot.Errorf(ingot.Invalid,
			"%s is a %s digest; known are sha256 and sha512", key, algorithm)
	}
	return ingot.Errorf(ingot.Invalid, "%s is an %s digest, which no longer protects against a "+
		"forged image; set image_os_hash_algo to sha256 or sha512 and image_os_hash_value to "+
		"the output of sha256sum or sha512sum", key, algorithm)
}

// check accepts a known algorithm with a value of its length. key names the culprit.
func (d Digest) check(key string) error {
	length, ok := hexDigits[d.Algorithm]
	if !ok {
		for _, name := range weak {
			if d.Algorithm == name {
				return weakError("image_os_hash_value", name)
			}
		}
		return ingot.Errorf(ingot.Invalid, "image_os_hash_algo is %q; known are sha256 and sha512",
			d.Algorithm)
	}
	if _, err := hex.DecodeString(d.Hex); err != nil || len(d.Hex) != length {
		return ingot.Errorf(ingot.Invalid, "%s %q is not a %s digest, which has %d hexadecimal "+
			"digits", key, d.Hex, d.Algorithm, length)
	}
	return nil
}

func formatOf(word string) (Format, error) {
	switch f := Format(strings.ToLower(word)); f {
	case Unknown, Raw, QCOW2:
		return f, nil
	}
	return Unknown, ingot.Errorf(ingot.Invalid, "image_disk_format is %q; known are raw and "+
		"qcow2. Convert the image with: qemu-img convert -O qcow2 in out", word)
}

// checkSource accepts the schemes that can be fetched and names the way out for the others.
func checkSource(source string) (*url.URL, error) {
	u, err := url.Parse(source)
	if err != nil {
		return nil, ingot.Errorf(ingot.Invalid, "image_source is not a URL: %w", reason(err))
	}
	switch u.Scheme {
	case "http", "https":
		if u.Host == "" {
			return nil, ingot.Errorf(ingot.Invalid, "image_source %s names no host", printable(u))
		}
		return u, nil
	case "file":
		if u.Host != "" && u.Host != "localhost" || !filepath.IsAbs(u.Path) {
			return nil, ingot.Errorf(ingot.Invalid, "image_source %s must name a file of the "+
				"conductor, as in file:///path/to/image", printable(u))
		}
		return u, nil
	case "", "glance":
		return nil, ingot.Errorf(ingot.Invalid, "image_source %s would be an image of Glance, "+
			"which is not supported; use an http://, https:// or file:// URL", printable(u))
	}
	return nil, ingot.Errorf(ingot.Invalid, "image_source has the scheme %s://, which is not "+
		"supported; use http://, https:// or file://", u.Scheme)
}

// check repeats what FromInstanceInfo found out, for references made elsewhere.
func (r Reference) check() error {
	if _, err := checkSource(r.Source); err != nil {
		return err
	}
	if _, err := formatOf(string(r.Format)); err != nil {
		return err
	}
	return r.Digest.check("digest")
}

// printable is u without what may be secret: user, query (signatures of temporary URLs).
func printable(u *url.URL) string {
	if u.Scheme == "" {
		return fmt.Sprintf("%q", u.Path)
	}
	p := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, Opaque: u.Opaque}
	return p.String()
}
