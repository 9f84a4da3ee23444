package disk

import "encoding/binary"

// Offsets in the boot sector (UEFI 2.10, table 5.1).
const (
	signatureAt = 440
	entriesAt   = 446
	entrySize   = 16
	markAt      = 510
)

var le = binary.LittleEndian

// parse reads what the boot sector describes.
func (t *Table) parse(head []byte) (Table, error) {
	for i := range 4 {
		if head[entriesAt+i*entrySize+4] == protective {
			return t.parseGPT(head)
		}
	}
	t.Label = MBR
	copy(t.ID[:4], head[signatureAt:])
	for i := range 4 {
		e := head[entriesAt+i*entrySize:][:entrySize]
		start, size := int64(le.Uint32(e[8:])), int64(le.Uint32(e[12:]))
		if e[4] == 0 || size == 0 {
			continue
		}
		if e[0]&0x7F != 0 {
			return Table{}, ErrNoTable // a file system's boot sector ends in 55 AA, too
		}
		t.Partitions = append(t.Partitions, Partition{
			Number: i + 1, Start: start * int64(t.Sector), Size: size * int64(t.Sector),
			Type: Type{MBR: e[4]}, Active: e[0] == 0x80,
		})
	}
	if len(t.Partitions) == 0 {
		return Table{}, ErrNoTable
	}
	return *t, nil
}

// encodeMBR keeps what comes before the signature: boot code.
func (t *Table) encodeMBR(head []byte) {
	copy(head[signatureAt:], t.ID[:4])
	clear(head[entriesAt:markAt])
	for _, p := range t.Partitions {
		e := head[entriesAt+(p.Number-1)*entrySize:][:entrySize]
		if p.Active {
			e[0] = 0x80
		}
		e[4] = p.Type.MBR
		start, size := p.Start/int64(t.Sector), p.Size/int64(t.Sector)
		le.PutUint32(e[8:], uint32(start))
		le.PutUint32(e[12:], uint32(size))
		copy(e[1:4], chs(start))
		copy(e[5:8], chs(start+size-1))
	}
	head[markAt], head[markAt+1] = 0x55, 0xAA
}

// chs is a sector number as cylinder, head and sector of the geometry that all assume, 255 heads
// and 63 sectors; old firmware compares it with the sector number.
func chs(lba int64) []byte {
	cylinder, head, sector := lba/(255*63), lba/63%255, lba%63+1
	if cylinder > 1023 {
		return []byte{0xFE, 0xFF, 0xFF}
	}
	return []byte{byte(head), byte(sector) | byte(cylinder>>2)&0xC0, byte(cylinder)}
}

// protect writes the protective MBR. One that is there, perhaps with other entries beside it,
// only gets the size of this disk.
func (t *Table) protect(head []byte) {
	sectors := uint32(min(t.Size/int64(t.Sector)-1, 1<<32-1))
	for i := range 4 {
		if e := head[entriesAt+i*entrySize:][:entrySize]; e[4] == protective {
			if le.Uint32(e[8:]) == 1 && i == 0 && head[entriesAt+entrySize+4] == 0 {
				le.PutUint32(e[12:], sectors)
			}
			return
		}
	}
	clear(head[signatureAt:markAt])
	e := head[entriesAt:][:entrySize]
	copy(e, []byte{0, 0, 2, 0, protective, 0xFF, 0xFF, 0xFF})
	le.PutUint32(e[8:], 1)
	le.PutUint32(e[12:], sectors)
	head[markAt], head[markAt+1] = 0x55, 0xAA
}
