// Package publish puts virtual media where BMCs read them if our own servers shall not serve them: into a
// directory of another web server, or into Swift. It does not make media (media does), and inserts none
// (drivers do). What was put where is a Record, which the node keeps: clean-up goes there, whatever the
// configuration says by then.
//
// Read Store first, then remove.go.
package publish

import (
	"context"
	"io"
	"strconv"

	"ingot/internal/ingot"
)

// Kind is what a medium is.
type Kind string

// The kinds, as the names of their files begin in Ironic.
const (
	Boot   Kind = "boot"
	Floppy Kind = "image"
)

// extensions are what BMCs know a kind by.
var extensions = map[Kind]string{Boot: ".iso", Floppy: ".img"}

// Medium is a medium for one boot of a machine.
type Medium struct {
	Kind Kind
	Node string // UUID
	// Tag is unguessable, and another one for each boot: who knows it can read the medium, and BMCs keep
	// what they have read by its name.
	Tag string
	// Attempt and Boot are the deployment and how often it has booted its machine; no secret.
	Attempt string
	Boot    int
	// Lasting media are read at each start of an instance; Attempt and Boot are "" and 0.
	Lasting bool
}

// file is its name where the name is all that keeps others away.
func (m Medium) file() string { return m.prefix() + m.Tag + extensions[m.Kind] }

// object is its name where the name opens nothing.
func (m Medium) object() string {
	if m.Lasting {
		return m.prefix() + "instance" + extensions[m.Kind]
	}
	return m.prefix() + m.Attempt + "-" + strconv.Itoa(m.Boot) + extensions[m.Kind]
}

func (m Medium) prefix() string { return string(m.Kind) + "-" + m.Node + "-" }

// Store is where media are put. All methods may run twice.
type Store interface {
	// Record is what Remove needs to know of a medium; it is on record before Put, so that nothing is
	// left of a Put that somebody else has to clean up after.
	Record(m Medium) Record
	// Check tells why media cannot be put, without asking anybody else; Invalid, and what to do about it.
	Check() error
	// Put stores what is read from the beginning of content, and returns the URL by which it is read; with
	// an error nothing is left of it. The URL is a secret.
	Put(ctx context.Context, m Medium, content io.ReadSeeker) (url string, err error)
}

// Prober is an optional ability of Store: Probe finds out, within seconds, what Check cannot. It leaves nothing.
type Prober interface {
	Probe(ctx context.Context) error
}

// Record says where a medium was put. It is no secret: readers of the node see it.
type Record struct {
	Store string // one of the two below
	Place string // directory, or container
	Name  string // of the object, or what the names of the files begin with
	URL   string // of the directory of a web server; "" for others
}

// Values of Record.Store.
const (
	InFolder = "http_root"
	InSwift  = "swift"
)

// At is the URL of a medium that was put there; "" if only Put knows it.
func (r Record) At(m Medium) string {
	if r.Store != InFolder {
		return ""
	}
	return r.URL + "/" + m.file()
}

// Of tells whether a medium may be what it is of.
func (r Record) Of(m Medium) bool { return r.Name == m.prefix() || r.Name == m.object() }

// Object is the record as it is with the node.
func (r Record) Object() ingot.Object {
	return ingot.Object{"store": r.Store, "place": r.Place, "name": r.Name, "url": r.URL}
}

// ParseRecord reads what Object has made; ok is false for anything else.
func ParseRecord(v any) (r Record, ok bool) {
	o, _ := v.(map[string]any)
	r.Store, _ = o["store"].(string)
	r.Place, _ = o["place"].(string)
	r.Name, _ = o["name"].(string)
	r.URL, _ = o["url"].(string)
	return r, r.Store != "" && r.Place != "" && r.Name != ""
}
