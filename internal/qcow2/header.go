package qcow2

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Magic begins every qcow2 file.
const Magic = "QFI\xfb"

const (
	headerSizeV2 = 72
	headerSizeV3 = 104
	// headerSizeMax is as much of the header as is read: the fixed part and the compression
	// type behind it.
	headerSizeMax = 112

	minClusterBits, maxClusterBits = 9, 21
	// minExtendedBits is the smallest cluster that is divided: 32 parts of 512 bytes.
	minExtendedBits = 14
	// maxRefcountOrder stands for reference counts of 64 bits.
	maxRefcountOrder = 6
	// maxL1 is QEMU's own limit for the L1 table in bytes (QCOW_MAX_L1_SIZE).
	maxL1 = 32 << 20
	// maxSize bounds the virtual size: no disk is larger, and offsets cannot overflow.
	maxSize = 1 << 60
)

// Incompatible feature bits of version 3.
const (
	featureDirty        = 1 << 0
	featureCorrupt      = 1 << 1
	featureExternalData = 1 << 2
	featureCompression  = 1 << 3
	featureExtendedL2   = 1 << 4
)

const (
	compressionZlib = 0
	compressionZstd = 1
)

const (
	howToConvert = "convert it with: qemu-img convert -O qcow2 in.qcow2 out.qcow2"
	howToReplace = "the file is damaged; fetch it again, or make it anew where qemu-img check " +
		"finds it sound"
)

// header is the part of the file header that matters to a reader.
type header struct {
	version     uint32
	clusterBits uint32
	size        int64
	l1Size      uint32
	l1Offset    int64
	backing     uint64
	crypt       uint32
	features    uint64
	compression byte

	refcountOffset int64
	refcountOrder  uint32
}

func (h header) clusterSize() int64 { return 1 << h.clusterBits }

// extended tells whether L2 entries are followed by a bitmap of 32 subclusters.
func (h header) extended() bool { return h.features&featureExtendedL2 != 0 }

// entryBits is the binary logarithm of the size of an L2 entry in bytes.
func (h header) entryBits() uint32 {
	if h.extended() {
		return 4
	}
	return 3
}

// unit is the smallest run of the virtual disk that may differ in kind from its neighbours: a
// cluster, or a subcluster.
func (h header) unit() int64 {
	if h.extended() {
		return h.clusterSize() / subclusters
	}
	return h.clusterSize()
}

// tableSpan is how many bytes of the virtual disk one L2 table maps, which fills one cluster.
func (h header) tableSpan() int64 { return 1 << (2*h.clusterBits - h.entryBits()) }

// l1Needed is the number of L1 entries that the virtual size needs.
func (h header) l1Needed() int64 { return (h.size + h.tableSpan() - 1) / h.tableSpan() }

func readHeader(r io.ReaderAt, size int64) (header, error) {
	if size < headerSizeV2 {
		return header{}, lies("%d bytes are too few for a header", size)
	}
	raw := make([]byte, headerSizeMax)
	n, err := r.ReadAt(raw[:min(size, headerSizeMax)], 0)
	if err != nil && err != io.EOF {
		return header{}, fmt.Errorf("read qcow2 header: %w", err)
	}
	h, err := parseHeader(raw[:n])
	if err != nil {
		return header{}, err
	}
	return h, h.check(size)
}

// CheckHeader refuses an image by its first bytes, of which head holds at least 112 or all. It
// finds what [Open] finds in the header, so that an image that will be refused need not be
// fetched first. Errors match [ErrUnsupported] or [ErrCorrupt].
func CheckHeader(head []byte) error {
	h, err := parseHeader(head)
	if err != nil {
		return err
	}
	return h.check(maxSize)
}

// parseHeader decodes the header and refuses what cannot be read; see check for the numbers.
func parseHeader(raw []byte) (header, error) {
	if len(raw) < headerSizeV2 || string(raw[:4]) != Magic {
		return header{}, fmt.Errorf("%w: it does not begin with the qcow2 magic", ErrCorrupt)
	}
	be := binary.BigEndian
	h := header{
		version:     be.Uint32(raw[4:]),
		backing:     be.Uint64(raw[8:]),
		clusterBits: be.Uint32(raw[20:]),
		size:        int64(be.Uint64(raw[24:])),
		crypt:       be.Uint32(raw[32:]),
		l1Size:      be.Uint32(raw[36:]),
		l1Offset:    int64(be.Uint64(raw[40:])),

		refcountOffset: int64(be.Uint64(raw[48:])),
		refcountOrder:  4, // fixed in version 2
	}
	if h.version == 2 {
		return h, h.refuse()
	}
	if h.version != 3 {
		return header{}, fmt.Errorf("%w: version %d, known are 2 and 3; %s",
			ErrUnsupported, h.version, howToConvert)
	}
	if len(raw) < headerSizeV3 {
		return header{}, lies("its header is cut off after %d bytes", len(raw))
	}
	h.features = be.Uint64(raw[72:])
	h.refcountOrder = be.Uint32(raw[96:])
	length := be.Uint32(raw[100:])
	if length < headerSizeV3 {
		return header{}, lies("its header has %d bytes, version 3 needs 104", length)
	}
	if length > headerSizeV3 && len(raw) > headerSizeV3 {
		h.compression = raw[headerSizeV3]
	}
	return h, h.refuse()
}

// refuse names the one feature that stands in the way, and the way around it.
func (h header) refuse() error {
	switch {
	case h.features&featureCorrupt != 0:
		return fmt.Errorf("%w: it is marked as corrupt; "+
			"repair it with: qemu-img check -r all image.qcow2", ErrCorrupt)
	case h.backing != 0:
		return fmt.Errorf("%w: it has a backing file, so it is not complete by itself; %s",
			ErrUnsupported, howToConvert)
	case h.features&featureExternalData != 0:
		return fmt.Errorf("%w: its data is in another file; %s", ErrUnsupported, howToConvert)
	case h.crypt != 0:
		return fmt.Errorf("%w: it is encrypted (method %d); decrypt it with qemu-img convert, "+
			"giving the key with --object secret", ErrUnsupported, h.crypt)
	}
	const known = featureDirty | featureCompression | featureExtendedL2
	if unknown := h.features &^ known; unknown != 0 {
		return fmt.Errorf("%w: unknown incompatible features %#x; %s",
			ErrUnsupported, unknown, howToConvert)
	}
	if h.compression != compressionZlib && h.compression != compressionZstd {
		return fmt.Errorf("%w: unknown compression type %d; %s",
			ErrUnsupported, h.compression, howToConvert)
	}
	return nil
}

// check bounds everything that is later multiplied or allocated, and finds headers that
// contradict themselves or the length of the file.
func (h header) check(fileSize int64) error {
	lowest := uint32(minClusterBits)
	if h.extended() {
		lowest = minExtendedBits
	}
	if h.clusterBits < lowest || h.clusterBits > maxClusterBits {
		return lies("cluster_bits is %d, possible are %d to %d",
			h.clusterBits, lowest, maxClusterBits)
	}
	if h.size < 0 || h.size > maxSize {
		return lies("its virtual size of %d bytes is absurd", uint64(h.size))
	}
	needed := h.l1Needed()
	if needed*8 > maxL1 {
		return fmt.Errorf("%w: virtual size %d with clusters of %d bytes needs an L1 table of "+
			"more than %d bytes; %s -o cluster_size=64k", ErrUnsupported, h.size,
			h.clusterSize(), maxL1, howToConvert)
	}
	if int64(h.l1Size) < needed {
		return lies("its L1 table has %d entries, the virtual size of %d bytes needs %d",
			h.l1Size, h.size, needed)
	}
	if h.refcountOrder > maxRefcountOrder {
		return lies("refcount_order is %d, possible are 0 to %d",
			h.refcountOrder, maxRefcountOrder)
	}
	if err := h.checkTable("L1 table", h.l1Offset, needed, fileSize); err != nil {
		return err
	}
	// Its entries are for writers; that it is there tells a header from noise.
	return h.checkTable("refcount table", h.refcountOffset, 1, fileSize)
}

// checkTable checks the place of a table of so many entries of 8 bytes.
func (h header) checkTable(what string, off, entries, fileSize int64) error {
	if off&(h.clusterSize()-1) != 0 {
		return lies("its %s at %d is not aligned to clusters", what, uint64(off))
	}
	if overlong(off, entries, fileSize) {
		return outside(what, off, fileSize)
	}
	return nil
}

// lies is an error about a header that cannot be true.
func lies(format string, args ...any) error {
	return fmt.Errorf("%w: "+format+"; "+howToReplace, append([]any{ErrCorrupt}, args...)...)
}
