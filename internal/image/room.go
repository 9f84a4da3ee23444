package image

import (
	"cmp"
	"os"
	"slices"
	"strings"
	"syscall"

	"ingot/internal/ingot"
)

const (
	// reserve is what a download leaves free, in bytes: the database is often on the same file
	// system, and would stop for every node if it were full.
	reserve = 128 << 20
	// roomStep is how many bytes are written between two looks at the free space.
	roomStep = 32 << 20
)

// makeRoom sees to it that size bytes can be written in dir, at the cost of the images that were
// fetched the longest ago: they can be fetched again. Who reads one of them is not disturbed. A
// size below zero is unknown.
func makeRoom(dir string, size int64) error {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return spoolError(err)
	}
	// Bavail and Bsize are bounded by what a file system can be; the product fits.
	free := int64(fs.Bavail) * fs.Bsize
	lack := min(max(size, 0), 1<<60) + reserve - free // a server may announce any size
	if lack <= 0 {
		return nil
	}
	images, err := spooledImages(dir)
	if err != nil {
		return spoolError(err)
	}
	old, enough := oldest(images, lack)
	if !enough {
		return ingot.Errorf(ingot.Unavailable, "the image needs %d bytes more than the file system "+
			"of the spool directory %s has to spare; make room there, or publish the image as raw "+
			"(also gzipped), which needs no spool", lack, dir)
	}
	for _, path := range old {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			return spoolError(err)
		}
	}
	return nil
}

// spooledImage is a complete file of the spool.
type spooledImage struct {
	path    string
	size    int64
	fetched int64 // moment, in nanoseconds
}

// spooledImages lists what makeRoom may remove.
func spooledImages(dir string) ([]spooledImage, error) {
	paths, err := named(dir, "sha", "")
	if err != nil {
		return nil, err
	}
	var images []spooledImage
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil || strings.HasSuffix(path, tempMark) {
			continue // gone meanwhile, or being written
		}
		images = append(images, spooledImage{path, info.Size(), info.ModTime().UnixNano()})
	}
	return images, nil
}

// oldest are the images fetched first that make up so many bytes, if all together do.
func oldest(images []spooledImage, bytes int64) (paths []string, enough bool) {
	images = slices.Clone(images)
	slices.SortFunc(images, func(a, b spooledImage) int {
		return cmp.Compare(a.fetched, b.fetched)
	})
	for _, i := range images {
		if bytes <= 0 {
			break
		}
		paths = append(paths, i.path)
		bytes -= i.size
	}
	return paths, bytes <= 0
}
