package image

// FindDigest is what a file of checksums is read with.
var FindDigest = findDigest
