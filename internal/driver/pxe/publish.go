package pxe

import (
	"context"
	"fmt"
	"slices"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
	"ingot/internal/publish"
	"ingot/internal/swift"
)

// publishedKey is where DriverInternalInfo has the records of the media that are not read from our servers:
// what was put where is removed from there, whatever is configured by then.
const publishedKey = "published_media"

// store is where the media of a node's machine are put; nil is our own servers, from which all other media are
// loaded.
func (b *Boot) store(n *ingot.Node) publish.Store {
	if b.o.Publish == nil || Kind(n) != MediaName {
		return nil
	}
	return b.o.Publish(n.Interfaces["boot"])
}

// published is how a medium of the next boot is named.
func published(n *ingot.Node, k publish.Kind) publish.Medium {
	if n.BootIntent == ingot.BootInstance {
		return publish.Medium{Kind: k, Node: n.UUID, Tag: netboot.MediumTag(n), Lasting: true}
	}
	return publish.Medium{Kind: k, Node: n.UUID, Tag: netboot.MediumTag(n), Attempt: n.Attempt.ID,
		Boot: n.Attempt.Boots}
}

// record notes that a medium is about to be put somewhere.
func record(n *ingot.Node, r publish.Record) {
	list, _ := n.DriverInternalInfo[publishedKey].([]any)
	if slices.Contains(records(n), r) {
		return
	}
	n.DriverInternalInfo[publishedKey] = append(list, r.Object())
}

// records are those of the media of a node's machine.
func records(n *ingot.Node) (list []publish.Record) {
	stored, _ := n.DriverInternalInfo[publishedKey].([]any)
	for _, v := range stored {
		if r, ok := publish.ParseRecord(v); ok {
			list = append(list, r)
		}
	}
	return list
}

// ownISO is the URL of a medium that BMCs read from others, "" if it is not one.
func ownISO(n *ingot.Node) string {
	if n.BootIntent == ingot.BootInstance {
		return n.Instance.ISO.URL
	}
	return n.Attempt.ISO.URL
}

// mediumName is what a person calls the medium that a node's machine boots.
func mediumName(n *ingot.Node) string {
	if n.BootIntent == ingot.BootInstance {
		return "the medium of the instance"
	}
	return "the medium of the deploy ramdisk"
}

// publish puts the medium where the BMC reads it, which is on record, and returns its URL.
func (b *Boot) publish(ctx context.Context, t *driver.Task, k publish.Kind) (url string, err error) {
	n := t.Node
	if iso := ownISO(n); iso != "" && k == publish.Boot {
		return iso, nil
	}
	s := b.store(n)
	if s == nil {
		return servedAt(n, k), nil
	}
	m, ok := b.mediumOf(n, t.Ports, k)
	if !ok {
		return "", ingot.Errorf(ingot.Internal, "node %s boots no medium now", n.UUID)
	}
	content, err := b.o.Lay(ctx, m)
	if err != nil {
		return "", fmt.Errorf("make %s: %w", mediumName(n), err)
	}
	if url, err = s.Put(ctx, published(n, k), content); err != nil {
		return "", err
	}
	r := s.Record(published(n, k))
	t.Note(ingot.Entry{Source: "step", Text: "put " + mediumName(n) + " into " + r.Store + ": " + r.Place})
	return url, nil
}

// unpublish removes media from where they were put. Nothing fails because they are there still: somebody
// goes on trying, and in Swift they end.
func (b *Boot) unpublish(ctx context.Context, t *driver.Task) {
	for _, r := range records(t.Node) {
		if b.o.Unpublish == nil {
			break
		}
		if err := b.o.Unpublish(ctx, r); err != nil {
			t.Note(ingot.Entry{Source: "step", Level: ingot.LevelWarning, Text: fmt.Sprintf(
				"a medium is in %s (%s) still, and removed later: %s", r.Store, r.Place,
				swift.Shorten(err.Error()))})
		}
	}
	delete(t.Node.DriverInternalInfo, publishedKey)
}
