// Package configdrive makes the file system image of a config drive out of what a deployment was
// given: an object with meta_data and the like, the image itself (gzip, base64), or a URL of it.
// Where the image goes on a disk is the business of package deploy. Start at [Check] and [Image].
package configdrive

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/iso9660"
)

// MaxSize is the most that an image may have: the size of its partition.
const MaxSize = 64 << 20

// label is what cloud-init and its like look for.
const label = "config-2"

// versions are the directories in which the same files are, as in Ironic.
var versions = []string{"2012-08-10", "latest"}

// fetchTimeout bounds the whole of a fetch: it is 64 MiB at most.
const fetchTimeout = 2 * time.Minute

// Check tells without the network whether drive, a member of instance_info, can become an image.
func Check(drive any) error {
	text, ok := drive.(string)
	if !ok || !isURL(text) {
		_, err := local(drive, "")
		return err
	}
	u, err := url.Parse(text)
	if err != nil {
		return ingot.Errorf(ingot.Invalid, "the address of the config drive is not a URL: %w",
			reason(err))
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return ingot.Errorf(ingot.Invalid, "the config drive is at %.80q; it must be at an http or "+
			"https URL", printable(u))
	}
	return nil
}

// printable is u without what may be secret: whoever has a signed URL reads what is in the drive.
func printable(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// reason strips the URL from an error of net/http or net/url.
func reason(err error) error {
	var e *url.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

func isURL(text string) bool { return strings.Contains(text, "://") }

// Image returns the image; uuid is that of the node, which becomes the instance's unless meta_data
// has another.
func Image(ctx context.Context, client *http.Client, drive any, uuid string) ([]byte, error) {
	if err := Check(drive); err != nil {
		return nil, err
	}
	if text, ok := drive.(string); ok && isURL(text) {
		body, err := fetch(ctx, client, text)
		if err != nil {
			return nil, ingot.Errorf(ingot.Unavailable, "fetch config drive: %w", err)
		}
		return Decode(body)
	}
	return local(drive, uuid)
}

// local makes an image of what needs no network.
func local(drive any, uuid string) ([]byte, error) {
	switch d := drive.(type) {
	case string:
		return Decode([]byte(d))
	case ingot.Object:
		return build(d, uuid)
	}
	return nil, ingot.Errorf(ingot.Invalid, "the config drive is %T; it must be an object with "+
		"meta_data, a base64 text, or a URL", drive)
}

// build makes an image of an object.
func build(d ingot.Object, uuid string) ([]byte, error) {
	meta := ingot.Object{"uuid": uuid}
	given, ok := d["meta_data"].(ingot.Object)
	if !ok && d["meta_data"] != nil {
		return nil, ingot.Errorf(ingot.Invalid, "config drive: meta_data is %T; it must be an object",
			d["meta_data"])
	}
	for k, v := range given {
		meta[k] = v
	}
	content := map[string]any{"meta_data.json": meta, "user_data": d["user_data"],
		"network_data.json": d["network_data"], "vendor_data2.json": d["vendor_data"]}
	var files []iso9660.File
	for name, value := range content {
		if value == nil {
			continue
		}
		data, err := encode(value)
		if err != nil {
			return nil, ingot.Errorf(ingot.Invalid, "config drive: %s: %w", name, err)
		}
		for _, version := range versions {
			files = append(files, iso9660.File{Path: "openstack/" + version + "/" + name,
				Data: data})
		}
	}
	image, err := iso9660.Build(iso9660.Options{Label: label}, files)
	if err != nil {
		return nil, ingot.Errorf(ingot.Invalid, "config drive: %w", err)
	}
	return image, checkSize(int64(len(image)))
}

// encode leaves text as it is and writes the rest as JSON.
func encode(v any) ([]byte, error) {
	if text, ok := v.(string); ok {
		return []byte(text), nil
	}
	return json.Marshal(v)
}

func checkSize(n int64) error {
	if n > MaxSize {
		return ingot.Errorf(ingot.Invalid, "the config drive has more than %d MiB, which is the "+
			"size of its partition", MaxSize>>20)
	}
	return nil
}

// gzipMagic begins a gzip stream (RFC 1952 2.3.1).
var gzipMagic = []byte{0x1F, 0x8B}

// Decode returns the image in data: gzip in base64 as Ironic wants it, or less of both.
func Decode(data []byte) ([]byte, error) {
	if !bytes.HasPrefix(data, gzipMagic) && !looksLikeImage(data) {
		var err error
		if data, err = base64.StdEncoding.DecodeString(withoutSpace(data)); err != nil {
			return nil, ingot.Errorf(ingot.Invalid, "the config drive is neither an image nor gzip "+
				"nor base64: %w", err)
		}
	}
	if bytes.HasPrefix(data, gzipMagic) {
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err == nil {
			data, err = io.ReadAll(io.LimitReader(z, MaxSize+1))
		}
		if err != nil {
			return nil, ingot.Errorf(ingot.Invalid, "the config drive's gzip stream is damaged: %w",
				err)
		}
	}
	if !looksLikeImage(data) {
		return nil, ingot.Errorf(ingot.Invalid, "the config drive has no ISO 9660 or FAT file "+
			"system; make it with: genisoimage -R -J -V config-2")
	}
	return data, checkSize(int64(len(data)))
}

// withoutSpace has no intermediate form: data may be 96 MiB of spaces from somewhere.
func withoutSpace(data []byte) string {
	var text strings.Builder
	text.Grow(len(data))
	for _, b := range data {
		if b != ' ' && (b < '\t' || b > '\r') {
			text.WriteByte(b)
		}
	}
	return text.String()
}

// looksLikeImage tells whether data is a file system that systems take config drives from.
func looksLikeImage(data []byte) bool {
	iso := len(data) > 16*2048+6 && string(data[16*2048+1:][:5]) == "CD001"
	fat := len(data) >= 512 && data[510] == 0x55 && data[511] == 0xAA
	return iso || fat
}

// fetch reads a URL, base64 or not.
func fetch(ctx context.Context, client *http.Client, from string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	if client == nil {
		client = http.DefaultClient
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, reason(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, ingot.Errorf(ingot.Unavailable, "%s answered %s", printable(request.URL),
			answer.Status)
	}
	const most = MaxSize / 2 * 3 // base64 takes a third more
	body, err := io.ReadAll(io.LimitReader(answer.Body, most+1))
	if err != nil {
		return nil, err
	}
	if len(body) > most {
		return nil, checkSize(most)
	}
	return body, nil
}
