package disk

import (
	"fmt"
	"hash/crc32"
	"unicode/utf16"
)

// UEFI 2.10, tables 5.5 and 5.6.
const (
	gptSignature   = "EFI PART"
	gptRevision    = 0x00010000
	headerSize     = 92
	gptEntrySize   = 128
	defaultEntries = 128
	nameUnits      = 36
)

// arraySize is the size of the array of entries in bytes, full sectors.
func (t *Table) arraySize() int64 {
	s := int64(t.Sector)
	return (int64(t.slots())*gptEntrySize + s - 1) / s * s
}

// backupSize is what the GPT takes at the end of the disk.
func (t *Table) backupSize() int64 { return t.arraySize() + int64(t.Sector) }

// firstUsable is the end of the primary GPT.
func (t *Table) firstUsable() int64 { return int64(t.Sector)*2 + t.arraySize() }

// parseGPT reads the primary GPT. What others allow and nobody writes is refused: entries of
// another size than 128 bytes, and an array that does not follow the header.
func (t *Table) parseGPT(head []byte) (Table, error) {
	damaged := func(what string) (Table, error) {
		return Table{}, fmt.Errorf("the GPT is damaged, or made for sectors of another size than "+
			"%d bytes: %s", t.Sector, what)
	}
	if len(head) < 3*t.Sector {
		return damaged("the disk is too small for one")
	}
	h := head[t.Sector:][:t.Sector]
	if string(h[:8]) != gptSignature {
		return damaged("there is a protective MBR and no GPT header")
	}
	size := le.Uint32(h[12:])
	if size < headerSize || size > uint32(t.Sector) {
		return damaged("wrong size of header")
	}
	header := append([]byte(nil), h[:size]...)
	clear(header[16:20])
	if crc32.ChecksumIEEE(header) != le.Uint32(h[16:]) {
		return damaged("wrong checksum of header")
	}
	count, each := le.Uint32(h[80:]), le.Uint32(h[84:])
	if le.Uint64(h[24:]) != 1 || le.Uint64(h[72:]) != 2 || each != gptEntrySize || count == 0 ||
		int64(count)*gptEntrySize > int64(len(head)-2*t.Sector) {
		return damaged("a layout that is not supported")
	}
	array := head[2*t.Sector:][:count*gptEntrySize]
	if crc32.ChecksumIEEE(array) != le.Uint32(h[88:]) {
		return damaged("wrong checksum of entries")
	}
	t.Label, t.entries = GPT, int(count)
	copy(t.ID[:], h[56:])
	for i := range int(count) {
		e := array[i*gptEntrySize:][:gptEntrySize]
		p := Partition{Number: i + 1, Attributes: le.Uint64(e[48:])}
		copy(p.Type.GPT[:], e)
		if p.Type.GPT == (GUID{}) {
			continue
		}
		copy(p.GUID[:], e[16:])
		first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
		if first > last || last >= 1<<48 {
			return damaged(fmt.Sprintf("partition %d ends before it starts", p.Number))
		}
		p.Start = int64(first) * int64(t.Sector)
		p.Size = int64(last-first+1) * int64(t.Sector)
		p.Name = decodeName(e[56:])
		t.Partitions = append(t.Partitions, p)
	}
	return *t, nil
}

func decodeName(b []byte) string {
	var units []uint16
	for i := 0; i < len(b); i += 2 {
		u := le.Uint16(b[i:])
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}

// encodeGPT writes protective MBR, header and entries into head and returns the backup, which
// ends with the disk.
func (t *Table) encodeGPT(head []byte) ([]Extent, error) {
	if t.Size < t.firstUsable()+t.backupSize() || t.firstUsable() > int64(len(head)) {
		return nil, fmt.Errorf("a disk of %d bytes is too small for a GPT", t.Size)
	}
	array := make([]byte, t.arraySize())
	for _, p := range t.Partitions {
		e := array[(p.Number-1)*gptEntrySize:][:gptEntrySize]
		copy(e, p.Type.GPT[:])
		copy(e[16:], p.GUID[:])
		le.PutUint64(e[32:], uint64(p.Start/int64(t.Sector)))
		le.PutUint64(e[40:], uint64(p.End()/int64(t.Sector)-1))
		le.PutUint64(e[48:], p.Attributes)
		units := utf16.Encode([]rune(p.Name))
		if len(units) > nameUnits {
			return nil, fmt.Errorf("the name of partition %d is too long", p.Number)
		}
		for i, u := range units {
			le.PutUint16(e[56+2*i:], u)
		}
	}
	t.protect(head)
	last := t.Size/int64(t.Sector) - 1
	arrayAt := last - t.arraySize()/int64(t.Sector)
	copy(head[t.Sector:2*t.Sector], t.header(1, last, 2, array))
	copy(head[2*t.Sector:], array)
	backup := append(array, t.header(last, 1, arrayAt, array)...)
	return []Extent{{arrayAt * int64(t.Sector), backup}}, nil
}

// header is one sector: the header at sector self, whose copy is at other and whose entries
// are at arrayAt.
func (t *Table) header(self, other, arrayAt int64, array []byte) []byte {
	h := make([]byte, t.Sector)
	copy(h, gptSignature)
	le.PutUint32(h[8:], gptRevision)
	le.PutUint32(h[12:], headerSize)
	le.PutUint64(h[24:], uint64(self))
	le.PutUint64(h[32:], uint64(other))
	le.PutUint64(h[40:], uint64(t.firstUsable()/int64(t.Sector)))
	le.PutUint64(h[48:], uint64((t.Size-t.backupSize())/int64(t.Sector)-1))
	copy(h[56:], t.ID[:])
	le.PutUint64(h[72:], uint64(arrayAt))
	le.PutUint32(h[80:], uint32(t.slots()))
	le.PutUint32(h[84:], gptEntrySize)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(array[:t.slots()*gptEntrySize]))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:headerSize]))
	return h
}
