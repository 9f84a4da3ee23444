package qcow2

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// inflater decompresses clusters. It keeps decompressors for reuse, as many as are used at the
// same time.
type inflater struct {
	unpack func(dst []byte, packed *bytes.Reader) error
	// packed keeps buffers for compressed clusters, flates and zstds the decompressors.
	packed, flates, zstds sync.Pool
}

func (f *inflater) init(h header) {
	f.unpack = f.flate
	if h.compression == compressionZstd {
		f.unpack = f.zstd
	}
}

// cluster decompresses the whole cluster c into dst.
func (f *inflater) cluster(dst []byte, r io.ReaderAt, c cluster) error {
	buf, _ := f.packed.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
	}
	defer f.packed.Put(buf)
	if int64(cap(*buf)) < c.packed {
		*buf = make([]byte, c.packed)
	}
	packed := (*buf)[:c.packed]
	if n, err := r.ReadAt(packed, c.host); n < len(packed) {
		return fmt.Errorf("read compressed cluster at %d of the file: %w", c.host, err)
	}
	// The length on file is in sectors, so the stream may be followed by bytes of others.
	if err := f.unpack(dst, bytes.NewReader(packed)); err != nil {
		return fmt.Errorf("%w: decompress cluster at %d of the file: %w; %s",
			ErrCorrupt, c.host, err, howToReplace)
	}
	return nil
}

// flate reads the raw deflate stream of QEMU's "zlib" compression: it has no zlib header.
func (f *inflater) flate(dst []byte, packed *bytes.Reader) error {
	d, _ := f.flates.Get().(io.ReadCloser)
	if d == nil {
		d = flate.NewReader(packed)
	} else if err := d.(flate.Resetter).Reset(packed, nil); err != nil {
		return err
	}
	defer f.flates.Put(d)
	_, err := io.ReadFull(d, dst)
	return err
}

func (f *inflater) zstd(dst []byte, packed *bytes.Reader) error {
	d, _ := f.zstds.Get().(*zstd.Decoder)
	if d == nil {
		var err error
		// One goroutine-free decoder; a window need not exceed the largest cluster.
		d, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderLowmem(true))
		if err != nil {
			return err
		}
	}
	defer f.zstds.Put(d)
	if err := d.Reset(packed); err != nil {
		return err
	}
	_, err := io.ReadFull(d, dst)
	return err
}
