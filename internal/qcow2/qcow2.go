// Package qcow2 reads QEMU's copy-on-write disk images, version 2 and 3, with plain, zlib
// compressed or zstd compressed clusters of any size, also divided into subclusters.
//
// It only reads, and only images that stand alone. Anything that would make the content depend
// on another file (backing file, external data file), on a key, or on a feature this package
// does not know, is refused by [Open], because a deployed disk must hold what was asked for or
// nothing. Internal snapshots are ignored: the active state is what is read. Reference counts
// are not looked at; they matter to writers only. Fetching images and checking their digest is
// left to package image.
//
// Source of all layouts: docs/interop/qcow2.txt of QEMU. Start at [Open], then
// [Image.ExtentAt], which lets a caller step over zeros without reading them.
package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/bits"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
)

// ErrUnsupported is matched by errors about well-formed images that this package refuses.
var ErrUnsupported = errors.New("unsupported qcow2 image")

// ErrCorrupt is matched by errors about images that contradict the format or themselves.
var ErrCorrupt = errors.New("corrupt qcow2 image")

// Image is an open image. Its methods may be called concurrently.
type Image struct {
	r        io.ReaderAt
	fileSize int64
	header   header
	// l1 holds one entry for every L2 table that the virtual size needs, never more.
	l1      []uint64
	tables  tableCache
	inflate inflater

	// partial keeps the last compressed cluster that was read in part, so that a reader whose
	// buffer is smaller than a cluster does not decompress the same cluster once per read.
	partialMu   sync.Mutex
	partialHost int64
	partial     []byte
}

// Extent is a run of bytes of the virtual disk that is either all data or all zero.
type Extent struct {
	// Offset and Length are bytes of the virtual disk.
	Offset, Length int64
	// Zero says that the run reads as zeros and occupies nothing worth reading. A run of data
	// may of course hold zeros too.
	Zero bool
}

// Open checks the header and the first-level table of the image in r, whose length is size
// bytes. Errors match [ErrUnsupported] or [ErrCorrupt], or come from r.
func Open(r io.ReaderAt, size int64) (*Image, error) {
	h, err := readHeader(r, size)
	if err != nil {
		return nil, err
	}
	m := &Image{r: r, fileSize: size, header: h, partialHost: -1}
	m.inflate.init(h)
	m.tables.init(m, h.clusterSize())
	if err := m.readL1(); err != nil {
		return nil, err
	}
	return m, nil
}

// Size is the size of the virtual disk in bytes.
func (m *Image) Size() int64 { return m.header.size }

// ClusterSize is the unit of allocation in bytes. Extents begin and end at multiples of it, or of
// a 32nd of it if clusters are divided, except at the end of the disk.
func (m *Image) ClusterSize() int64 { return m.header.clusterSize() }

func (m *Image) readL1() error {
	raw := make([]byte, 8*m.header.l1Needed())
	if n, err := m.r.ReadAt(raw, m.header.l1Offset); n < len(raw) {
		return fmt.Errorf("read L1 table at %d: %w", m.header.l1Offset, err)
	}
	m.l1 = make([]uint64, len(raw)/8)
	for i := range m.l1 {
		m.l1[i] = binary.BigEndian.Uint64(raw[8*i:])
	}
	return nil
}

// Extents yields the whole virtual disk as extents in order, without gaps. Neighbours may be
// of the same kind. After an error nothing follows.
func (m *Image) Extents() iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		for off := int64(0); off < m.Size(); {
			e, err := m.ExtentAt(off)
			if !yield(e, err) || err != nil {
				return
			}
			off += e.Length
		}
	}
}

// ExtentAt returns the extent that begins at off. It looks at one L2 table at most, or at a
// run of missing ones, so its cost is bounded however long the run is. At or past the end of
// the disk it returns io.EOF.
func (m *Image) ExtentAt(off int64) (Extent, error) {
	if off < 0 {
		return Extent{}, fmt.Errorf("extent at %d: negative offset", off)
	}
	if off >= m.Size() {
		return Extent{}, io.EOF
	}
	end := min(m.tableEnd(off), m.Size())
	if m.l1[off/m.header.tableSpan()]&offsetMask == 0 {
		for end < m.Size() && m.l1[end/m.header.tableSpan()]&offsetMask == 0 {
			end = min(m.tableEnd(end), m.Size())
		}
		return Extent{Offset: off, Length: end - off, Zero: true}, nil
	}
	first, err := m.clusterAt(off)
	if err != nil {
		return Extent{}, err
	}
	zero := first.kind == zeroCluster
	stop := m.unitEnd(off)
	for stop < end {
		c, err := m.clusterAt(stop)
		if err != nil {
			// The run before the bad entry is good; the next call meets the error.
			break
		}
		if (c.kind == zeroCluster) != zero {
			break
		}
		stop = m.unitEnd(stop)
	}
	return Extent{Offset: off, Length: min(stop, end) - off, Zero: zero}, nil
}

// tableEnd is the first offset after off that belongs to the next L2 table.
func (m *Image) tableEnd(off int64) int64 {
	span := m.header.tableSpan()
	return (off/span + 1) * span
}

// unitEnd is the first offset after off that may be of another kind.
func (m *Image) unitEnd(off int64) int64 { return (off | (m.header.unit() - 1)) + 1 }

// within is the offset of off in its cluster.
func (m *Image) within(off int64) int64 { return off & (m.ClusterSize() - 1) }

// ReadAt reads len(p) bytes of the virtual disk at off as io.ReaderAt says.
func (m *Image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: negative offset", off)
	}
	short := off >= m.Size() || int64(len(p)) > m.Size()-off
	if short {
		p = p[:max(0, m.Size()-off)]
	}
	done := 0
	for done < len(p) {
		n, err := m.readRun(p[done:], off+int64(done))
		done += n
		if err != nil {
			return done, err
		}
	}
	if short {
		return done, io.EOF
	}
	return done, nil
}

// readRun fills the beginning of p from one cluster, or from several that follow one another
// in the file, and returns how much it filled.
func (m *Image) readRun(p []byte, off int64) (int, error) {
	c, err := m.clusterAt(off)
	if err != nil {
		return 0, err
	}
	if c.kind == compressedCluster {
		if n, err := m.readWhole(p, off); n > 0 || err != nil {
			return n, err
		}
		into := m.within(off)
		n := int(min(int64(len(p)), m.ClusterSize()-into))
		return n, m.readCompressed(p[:n], c, into)
	}
	n := int(min(int64(len(p)), m.unitEnd(off)-off))
	if c.kind == zeroCluster {
		clear(p[:n])
		return n, nil
	}
	host := c.host + m.within(off)
	for n < len(p) {
		at := off + int64(n)
		next, err := m.clusterAt(at)
		if err != nil || next.kind != plainCluster || next.host+m.within(at) != host+int64(n) {
			break
		}
		n += int(min(int64(len(p)-n), m.header.unit()))
	}
	return n, m.readPlain(p[:n], host)
}

// readWhole fills p with the compressed clusters that begin at off and lie in p as a whole, if
// there are several: each can be decompressed by itself, so all processors take part. The memory
// is that of a decompressor for each.
func (m *Image) readWhole(p []byte, off int64) (int, error) {
	size := m.ClusterSize()
	if m.within(off) != 0 || int64(len(p)) < 2*size {
		return 0, nil
	}
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	n := int64(0)
	for ; n+size <= int64(len(p)); n += size {
		c, err := m.clusterAt(off + n)
		if err != nil || c.kind != compressedCluster {
			break // who reads on from there meets it again
		}
		to := p[n : n+size]
		group.Go(func() error { return m.inflate.cluster(to, m.r, c) })
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	return int(n), nil
}

// readPlain reads from the file. QEMU may leave the last cluster of a file shorter than a
// cluster; what is missing reads as zero. Clusters that begin outside the file never get here.
func (m *Image) readPlain(p []byte, host int64) error {
	got, err := m.r.ReadAt(p, host)
	if got == len(p) {
		return nil
	}
	if err != io.EOF || host+int64(got) < m.fileSize {
		return fmt.Errorf("read cluster at %d of the file: %w", host, err)
	}
	clear(p[got:])
	return nil
}

func (m *Image) readCompressed(p []byte, c cluster, into int64) error {
	if int64(len(p)) == m.ClusterSize() {
		return m.inflate.cluster(p, m.r, c)
	}
	m.partialMu.Lock()
	defer m.partialMu.Unlock()
	if m.partialHost != c.host {
		if m.partial == nil {
			m.partial = make([]byte, m.ClusterSize())
		}
		m.partialHost = -1
		if err := m.inflate.cluster(m.partial, m.r, c); err != nil {
			return err
		}
		m.partialHost = c.host
	}
	copy(p, m.partial[into:])
	return nil
}

type kind uint8

const (
	zeroCluster kind = iota
	plainCluster
	compressedCluster
)

// subclusters is how many parts a cluster has if it is divided.
const subclusters = 32

// cluster is a decoded L2 entry, or what it says about one subcluster.
type cluster struct {
	kind kind
	// host is where the cluster begins in the file, also if this is about a subcluster.
	host int64
	// packed is the most bytes that the compressed form may take.
	packed int64
}

// Bits of L1 and L2 entries (qcow2.txt, "Cluster mapping").
const (
	offsetMask     = 0x00fffffffffffe00
	compressedFlag = 1 << 62
	zeroFlag       = 1
)

func (m *Image) clusterAt(off int64) (cluster, error) {
	span := m.header.tableSpan()
	host := int64(m.l1[off/span] & offsetMask)
	if host == 0 {
		return cluster{kind: zeroCluster}, nil
	}
	e, err := m.tables.entry(host, off%span>>m.header.clusterBits)
	if err != nil {
		return cluster{}, fmt.Errorf("map offset %d: %w", off, err)
	}
	c, err := m.header.decode(e, m.within(off)/m.header.unit(), m.fileSize)
	if err != nil {
		return cluster{}, fmt.Errorf("map offset %d: %w", off, err)
	}
	return c, nil
}

// decode turns an L2 entry into what it says about the given subcluster, and refuses those that
// point outside the file.
func (h header) decode(e entry, subcluster, fileSize int64) (cluster, error) {
	if e.word&compressedFlag != 0 {
		return h.decodeCompressed(e.word, fileSize)
	}
	host := int64(e.word & offsetMask)
	zero := e.word&zeroFlag != 0 || host == 0
	if h.extended() {
		allocated, cleared := e.bitmap>>subcluster&1 != 0, e.bitmap>>(32+subcluster)&1 != 0
		if allocated && (cleared || host == 0) {
			return cluster{}, fmt.Errorf("%w: subcluster is allocated and is not; %s",
				ErrCorrupt, howToReplace)
		}
		zero = !allocated
	} else if e.word&zeroFlag != 0 && h.version < 3 {
		return cluster{}, fmt.Errorf("%w: zero cluster in version 2; %s", ErrCorrupt, howToReplace)
	}
	if zero {
		return cluster{kind: zeroCluster}, nil
	}
	if host&(h.clusterSize()-1) != 0 {
		return cluster{}, fmt.Errorf("%w: cluster at %d is not aligned; %s",
			ErrCorrupt, host, howToReplace)
	}
	if host >= fileSize {
		return cluster{}, outside("cluster", host, fileSize)
	}
	return cluster{kind: plainCluster, host: host}, nil
}

func (h header) decodeCompressed(entry uint64, fileSize int64) (cluster, error) {
	width := 62 - (h.clusterBits - 8)
	host := int64(entry & (1<<width - 1))
	sectors := int64(entry&(compressedFlag-1))>>width + 1
	if host >= fileSize {
		return cluster{}, outside("compressed cluster", host, fileSize)
	}
	packed := min(sectors*512-host&511, fileSize-host)
	return cluster{kind: compressedCluster, host: host, packed: packed}, nil
}

func outside(what string, host, fileSize int64) error {
	return fmt.Errorf("%w: %s at %d lies outside the file of %d bytes; "+
		"the file is truncated, fetch it again", ErrCorrupt, what, host, fileSize)
}

// overlong tells whether count entries of 8 bytes at off reach past the end of the file.
func overlong(off, count, fileSize int64) bool {
	hi, n := bits.Mul64(uint64(count), 8)
	return hi != 0 || off < 0 || off > fileSize || n > uint64(fileSize-off)
}
