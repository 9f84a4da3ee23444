package image

import (
	"context"
	"io"
	"os"
	"sync"

	"ingot/internal/ingot"
	"ingot/internal/qcow2"
)

// diskFile is the content of a qcow2 file.
type diskFile struct {
	file  *os.File
	image *qcow2.Image
	// off is where the reader is, extent what is left of the extent there.
	off    int64
	extent qcow2.Extent
	// verdict is still to be waited for; nil if the file was verified before.
	verdict *verdict
	close   func() error
}

// openInPlace opens a file:// image. It returns nil without error if the image has to go through
// the spool.
func (o opener) openInPlace(ctx context.Context) (*diskFile, error) {
	if o.url.Scheme != "file" {
		return nil, nil
	}
	s, err := o.dial(ctx)
	if err != nil {
		return nil, err
	}
	if s.packing != nil {
		return nil, s.Close()
	}
	v := judge(s.local, o.ref.Digest)
	d, err := newDiskFile(s.local, v)
	if err != nil {
		// A file that is not the promised one is best called that, whatever else is wrong.
		if wrong := v.wait(ctx); wrong != nil {
			err = wrong
		}
		v.drop()
		s.Close()
	}
	return d, err
}

// openSpooled opens the verified file in the spool.
func (o opener) openSpooled(ctx context.Context) (*diskFile, error) {
	f, err := o.spooled(ctx)
	if err != nil {
		return nil, err
	}
	d, err := newDiskFile(f, nil)
	if err != nil {
		f.Close()
	}
	return d, err
}

// newDiskFile owns f unless it fails.
func newDiskFile(f *os.File, v *verdict) (*diskFile, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fileError(err, "image_source")
	}
	disk, err := qcow2.Open(f, info.Size())
	if err != nil {
		return nil, ingot.Errorf(ingot.Invalid, "%w", err)
	}
	inUse.add(f.Name(), 1)
	return &diskFile{file: f, image: disk, verdict: v, close: sync.OnceValue(func() error {
		v.drop()
		inUse.add(f.Name(), -1)
		return f.Close()
	})}, nil
}

// next waits for the verdict when there is nothing more to read, for whatever reason: of a file
// that is not the promised one, nothing else is worth to be known.
func (d *diskFile) next(ctx context.Context, buf []byte) (int64, bool, error) {
	n, zero, err := d.read(buf)
	if err != nil {
		if wrong := d.verdict.wait(ctx); wrong != nil {
			err = wrong
		}
	}
	return n, zero, err
}

func (d *diskFile) read(buf []byte) (int64, bool, error) {
	if d.extent.Length == 0 {
		extent, err := d.image.ExtentAt(d.off)
		if err == io.EOF {
			return 0, false, io.EOF
		}
		if err != nil {
			return 0, false, ingot.Errorf(ingot.Invalid, "read image: %w", err)
		}
		d.extent = extent
	}
	n := d.extent.Length
	if !d.extent.Zero {
		n = min(n, int64(len(buf)))
		if _, err := d.image.ReadAt(buf[:n], d.off); err != nil {
			return 0, false, ingot.Errorf(ingot.Invalid, "read image: %w", err)
		}
	}
	d.off += n
	d.extent.Length -= n
	return n, d.extent.Zero, nil
}

// Close ends all use of the file.
func (d *diskFile) Close() error { return d.close() }
