package image

// FindDigest is what a file of checksums is read with.
var FindDigest = findDigest

// Removable lists the paths that may be removed from a spool directory to make room.
func Removable(dir string) ([]string, error) {
	images, err := spooledImages(dir)
	var paths []string
	for _, i := range images {
		paths = append(paths, i.path)
	}
	return paths, err
}
