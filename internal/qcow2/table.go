package qcow2

import (
	"encoding/binary"
	"fmt"
	"sync"
)

const (
	// tableMemory is what cached L2 tables may take together, unless two of them take more.
	tableMemory = 1 << 20
	tableSlots  = 64
)

// tableCache keeps the L2 tables used last. Images are read front to back, so a handful is
// enough; what counts is that the memory does not grow with the image.
type tableCache struct {
	image *Image
	size  int64
	slots int

	mu     sync.Mutex
	tables []table // guarded by mu, most recently used first
}

type table struct {
	host    int64
	entries []byte
}

func (c *tableCache) init(m *Image, size int64) {
	c.image, c.size = m, size
	c.slots = int(min(tableSlots, max(2, tableMemory/size)))
}

// entry is an L2 entry; the bitmap is there if clusters are divided.
type entry struct{ word, bitmap uint64 }

// entry returns the entry with the given index of the L2 table at host.
func (c *tableCache) entry(host, index int64) (entry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.tables) == 0 || c.tables[0].host != host {
		if err := c.use(host); err != nil {
			return entry{}, err
		}
	}
	raw := c.tables[0].entries[index<<c.image.header.entryBits():]
	e := entry{word: binary.BigEndian.Uint64(raw)}
	if c.image.header.extended() {
		e.bitmap = binary.BigEndian.Uint64(raw[8:])
	}
	return e, nil
}

// use brings the table at host to the front, reading it if it is not cached. The caller holds
// the mutex.
func (c *tableCache) use(host int64) error {
	for i, t := range c.tables {
		if t.host == host {
			copy(c.tables[1:i+1], c.tables[:i])
			c.tables[0] = t
			return nil
		}
	}
	if host&(c.size-1) != 0 {
		return fmt.Errorf("%w: L2 table at %d is not aligned; %s", ErrCorrupt, host, howToReplace)
	}
	if overlong(host, c.size/8, c.image.fileSize) {
		return outside("L2 table", host, c.image.fileSize)
	}
	t := table{host: host}
	if len(c.tables) == c.slots {
		t.entries = c.tables[c.slots-1].entries
		c.tables = c.tables[:c.slots-1]
	} else {
		t.entries = make([]byte, c.size)
	}
	if n, err := c.image.r.ReadAt(t.entries, host); n < len(t.entries) {
		return fmt.Errorf("read L2 table at %d: %w", host, err)
	}
	c.tables = append(c.tables, table{})
	copy(c.tables[1:], c.tables)
	c.tables[0] = t
	return nil
}
