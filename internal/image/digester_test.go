package image

import (
	"bytes"
	"crypto/sha512"
	"math/rand/v2"
	"testing"
	"testing/synctest"
)

func TestADigestIsThatOfAllPieces(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for _, size := range []int{0, 1, digestSize - 1, digestSize, digestSize + 1, 20*digestSize + 17} {
		content := make([]byte, size)
		for i := range content {
			content[i] = byte(random.Int())
		}
		d := newDigester("sha512")
		piece := make([]byte, 2*digestSize)
		for rest := content; len(rest) > 0; {
			n := copy(piece[:1+random.IntN(len(piece))], rest)
			d.Write(piece[:n])
			clear(piece) // it belongs to the writer again
			rest = rest[n:]
		}
		want := sha512.Sum512(content)
		if got := d.Sum(); !bytes.Equal(got, want[:]) {
			t.Errorf("%d bytes: the digest is %x, want %x", size, got, want)
		}
	}
}

func TestADigesterThatIsClosedLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // waits for its goroutines
		d := newDigester("sha256")
		d.Write(make([]byte, 3*digestSize))
		d.Close()
		d.Close()
	})
}
