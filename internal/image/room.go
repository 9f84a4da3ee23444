package image

import (
	"cmp"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"ingot/internal/ingot"
)

const (
	// reserve is what a download leaves free, in bytes: the database is often on the same file
	// system, and would stop for every node if it were full.
	reserve = 128 << 20
	// roomStep is how many bytes are written between two looks at the free space.
	roomStep = 32 << 20
)

// ErrNoRoom is matched by errors about a spool directory that the image does not fit into.
var ErrNoRoom = errors.New("there is not enough room for the image")

// inUse counts who reads which image of the spool, by path. To remove one of those would make
// no room before it is closed, and the next machine would have to fetch it again. It is package
// state for the same reason as downloads.
var inUse = users{count: make(map[string]int), left: make(map[string]time.Time)}

// usedAgain is how long after its use an image is among the last to be removed: a machine that boots, or
// asks for it again after a break, wants it by then.
const usedAgain = 30 * time.Minute

type users struct {
	mu    sync.Mutex
	count map[string]int       // guarded by mu
	left  map[string]time.Time // guarded by mu; when the last one left, if not longer ago than usedAgain
}

// add says that the file of that path has one user more, or with -1 one less.
func (u *users) add(path string, n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.count[path] += n; u.count[path] == 0 {
		delete(u.count, path)
		u.left[path] = time.Now()
		maps.DeleteFunc(u.left, func(_ string, t time.Time) bool { return time.Since(t) > usedAgain })
	}
}

// used is when the file was used last, in nanoseconds; 0 is longer ago than usedAgain.
func (u *users) used(path string) int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	if t, ok := u.left[path]; ok && time.Since(t) <= usedAgain {
		return t.UnixNano()
	}
	return 0
}

// has tells whether someone reads the file.
func (u *users) has(path string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.count[path] > 0
}

// makeRoom sees to it that size bytes can be written in dir, at the cost of the images that were
// fetched the longest ago and that nobody reads: they can be fetched again. Those that were read a
// short while ago come last. A size below zero is unknown.
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
		return ingot.Errorf(ingot.Unavailable, "%w: it needs %d bytes more than the file system "+
			"of the spool directory %s has to spare; make room there, or publish the image as raw "+
			"(also gzipped), which needs no spool", ErrNoRoom, lack, dir)
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
	used    int64 // when it was read last, in nanoseconds; 0 if not lately
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
		if err != nil || strings.HasSuffix(path, tempMark) || inUse.has(path) {
			continue // gone meanwhile, being written, or being read
		}
		images = append(images, spooledImage{path, info.Size(), info.ModTime().UnixNano(), inUse.used(path)})
	}
	return images, nil
}

// oldest are the images that make up so many bytes, if all together do: those fetched first, and after
// them those that were used lately.
func oldest(images []spooledImage, bytes int64) (paths []string, enough bool) {
	images = slices.Clone(images)
	slices.SortFunc(images, func(a, b spooledImage) int {
		return cmp.Or(cmp.Compare(a.used, b.used), cmp.Compare(a.fetched, b.fetched))
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
