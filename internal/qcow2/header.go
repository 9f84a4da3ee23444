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

const howToConvert = "convert it with: qemu-img convert -O qcow2 in.qcow2 out.qcow2"

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
}

func (h header) clusterSize() int64 { return 1 << h.clusterBits }

// tableSpan is how many bytes of the virtual disk one L2 table maps: its entries have 8 bytes
// and it fills one cluster.
func (h header) tableSpan() int64 { return 1 << (2*h.clusterBits - 3) }

// l1Needed is the number of L1 entries that the virtual size needs.
func (h header) l1Needed() int64 { return (h.size + h.tableSpan() - 1) / h.tableSpan() }

func readHeader(r io.ReaderAt, size int64) (header, error) {
	if size < headerSizeV2 {
		return header{}, fmt.Errorf("%w: %d bytes are too few for a header", ErrCorrupt, size)
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
	if err := h.refuse(); err != nil {
		return header{}, err
	}
	return h, h.check(size)
}

// parseHeader decodes; whether the values are acceptable is for refuse and check.
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
	}
	if h.version == 2 {
		return h, nil
	}
	if h.version != 3 {
		return header{}, fmt.Errorf("%w: version %d, known are 2 and 3; %s",
			ErrUnsupported, h.version, howToConvert)
	}
	if len(raw) < headerSizeV3 {
		return header{}, fmt.Errorf("%w: header of version 3 is cut off", ErrCorrupt)
	}
	h.features = be.Uint64(raw[72:])
	length := be.Uint32(raw[100:])
	if length < headerSizeV3 {
		return header{}, fmt.Errorf("%w: header length %d is below 104", ErrCorrupt, length)
	}
	if length > headerSizeV3 && len(raw) > headerSizeV3 {
		h.compression = raw[headerSizeV3]
	}
	return h, nil
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
	case h.features&featureExtendedL2 != 0:
		return fmt.Errorf("%w: it has extended L2 entries (subclusters); %s",
			ErrUnsupported, howToConvert)
	}
	if unknown := h.features &^ (featureDirty | featureCompression); unknown != 0 {
		return fmt.Errorf("%w: unknown incompatible features %#x; %s",
			ErrUnsupported, unknown, howToConvert)
	}
	if h.compression != compressionZlib && h.compression != compressionZstd {
		return fmt.Errorf("%w: unknown compression type %d; %s",
			ErrUnsupported, h.compression, howToConvert)
	}
	return nil
}

// check bounds everything that is later multiplied or allocated.
func (h header) check(fileSize int64) error {
	if h.clusterBits < minClusterBits || h.clusterBits > maxClusterBits {
		return fmt.Errorf("%w: cluster_bits is %d, possible are %d to %d",
			ErrCorrupt, h.clusterBits, minClusterBits, maxClusterBits)
	}
	if h.size < 0 || h.size > maxSize {
		return fmt.Errorf("%w: virtual size %d is absurd", ErrCorrupt, uint64(h.size))
	}
	needed := h.l1Needed()
	if needed*8 > maxL1 {
		return fmt.Errorf("%w: virtual size %d with clusters of %d bytes needs an L1 table of "+
			"more than %d bytes; %s -o cluster_size=64k", ErrUnsupported, h.size,
			h.clusterSize(), maxL1, howToConvert)
	}
	if int64(h.l1Size) < needed {
		return fmt.Errorf("%w: L1 table has %d entries, the virtual size needs %d",
			ErrCorrupt, h.l1Size, needed)
	}
	if h.l1Offset&(h.clusterSize()-1) != 0 {
		return fmt.Errorf("%w: L1 table at %d is not aligned", ErrCorrupt, h.l1Offset)
	}
	if overlong(h.l1Offset, needed, fileSize) {
		return outside("L1 table", h.l1Offset, fileSize)
	}
	return nil
}
