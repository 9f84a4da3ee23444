package image

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"ingot/internal/ingot"
)

func TestRoomIsMadeByTheImagesFetchedFirst(t *testing.T) {
	t.Parallel()
	images := []spooledImage{{"b", 20, 2, 0}, {"a", 10, 1, 0}, {"c", 30, 3, 0}}
	for _, c := range []struct {
		bytes  int64
		want   []string
		enough bool
	}{
		{0, nil, true},
		{1, []string{"a"}, true},
		{10, []string{"a"}, true},
		{11, []string{"a", "b"}, true},
		{60, []string{"a", "b", "c"}, true},
		{61, []string{"a", "b", "c"}, false},
	} {
		got, enough := oldest(images, c.bytes)
		if !slices.Equal(got, c.want) || enough != c.enough {
			t.Errorf("%d bytes: %v %t, want %v %t", c.bytes, got, enough, c.want, c.enough)
		}
	}
}

// A machine that boots, or asks again after a break, finds its image as long as others make enough room.
func TestImagesUsedLatelyAreRemovedLast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := users{count: make(map[string]int), left: make(map[string]time.Time)}
		lookAt := func(path string) {
			u.add(path, 1)
			u.add(path, 1)
			u.add(path, -1)
			u.add(path, -1)
			time.Sleep(time.Minute)
		}
		lookAt("a")
		lookAt("b")
		lookAt("a")
		var images []spooledImage
		for at, path := range []string{"a", "b", "c", "d"} {
			images = append(images, spooledImage{path, 10, int64(at + 1), u.used(path)})
		}
		if got, enough := oldest(images, 40); !enough || !slices.Equal(got, []string{"c", "d", "b", "a"}) {
			t.Errorf("removed in the order %v, %t", got, enough)
		}
		if got, _ := oldest(images, 20); !slices.Equal(got, []string{"c", "d"}) {
			t.Errorf("removed for less: %v", got)
		}
		time.Sleep(usedAgain)
		lookAt("e")
		if u.used("a") != 0 || len(u.left) != 1 {
			t.Errorf("remembered for ever: %v", u.left)
		}
	})
}

func TestAnImageThatCannotFitCostsNoOther(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	held := filepath.Join(dir, "sha256-0")
	if err := os.WriteFile(held, []byte("image"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := makeRoom(dir, math.MaxInt64)
	if ingot.KindOf(err) != ingot.Unavailable {
		t.Errorf("error is %v, want one of the kind Unavailable", err)
	}
	if _, err := os.Stat(held); err != nil {
		t.Errorf("the image that is there: %v", err)
	}
}

func TestDownloadsUnderWayAndFilesOfOthersAreNoImages(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"sha256-0", "sha256-1.7" + tempMark, "ledger"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("12345"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	moment := time.Unix(1000, 5)
	path := filepath.Join(dir, "sha256-0")
	if err := os.Chtimes(path, moment, moment); err != nil {
		t.Fatal(err)
	}
	got, err := spooledImages(dir)
	want := []spooledImage{{path, 5, moment.UnixNano(), 0}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("images are %v (%v), want %v", got, err, want)
	}
	if _, err := spooledImages(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error of a missing directory is %v", err)
	}
}
