package image_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"ingot/internal/image"
	"ingot/internal/ingot"
)

// inPlace writes content to a file and opens it with the given digest.
func inPlace(t *testing.T, content []byte, digest image.Digest) (*image.Image, string) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "disk")
	write(t, path, content)
	i, err := image.Open(t.Context(), image.Reference{Source: "file://" + path, Digest: digest},
		within(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Close() })
	return i, path
}

func TestAQCOW2FileIsVerifiedBesideItsUse(t *testing.T) {
	t.Parallel()
	want := disk(3 << 20)
	file := qcow2Of(t, want)
	wrong := sha256Of([]byte("another image"))

	i, _ := inPlace(t, file, wrong)
	got, err := drain(t.Context(), i)
	mustFail(t, err, ingot.Invalid, wrong.Hex)
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes before the verdict, want all %d", len(got), len(want))
	}

	i, _ = inPlace(t, file, wrong)
	mustFail(t, i.Verify(t.Context()), ingot.Invalid, wrong.Hex)

	i, _ = inPlace(t, file, sha256Of(file))
	if err := i.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAQCOW2FileThatIsChangedMeanwhileIsRefused(t *testing.T) {
	t.Parallel()
	want := disk(3 << 20)
	file := qcow2Of(t, want)
	i, path := inPlace(t, file, sha256Of(file))
	if err := i.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	// It was found to be right, has other bytes now, and the old time of modification.
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	file = bytes.Clone(file)
	file[len(file)-1] ^= 1
	write(t, path, file)
	if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	_, err = drain(t.Context(), i)
	mustFail(t, err, ingot.Invalid, "checksum")
}

func TestAQCOW2FileMayBeTouchedMeanwhile(t *testing.T) {
	t.Parallel()
	want := disk(3 << 20)
	file := qcow2Of(t, want)
	i, path := inPlace(t, file, sha256Of(file))
	if err := i.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := drain(t.Context(), i)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, error %v; want %d bytes", len(got), err, len(want))
	}
}

func TestADamagedQCOW2FileIsCalledByItsDigest(t *testing.T) {
	t.Parallel()
	file := qcow2Of(t, disk(3<<20))
	promised := sha256Of(file)
	damaged := bytes.Clone(file[:len(file)/2]) // clusters lie outside of it
	i, _ := inPlace(t, damaged, promised)
	_, err := drain(t.Context(), i)
	mustFail(t, err, ingot.Invalid, "promises "+promised.String())
}

func TestAQCOW2FileIsGivenBackBeforeItsVerdict(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "disk")
	qemuImg(t, "create", "-q", "-f", "qcow2", path, "1G")
	if err := os.Truncate(path, 1<<40); err != nil { // would take minutes to hash
		t.Fatal(err)
	}
	i, err := image.Open(t.Context(), image.Reference{
		Source: "file://" + path, Digest: sha256Of(nil)}, within(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("the machine is gone")
	cancel(reason)
	if err := i.Verify(ctx); !errors.Is(err, reason) {
		t.Errorf("error %v, want the reason", err)
	}
	if err := i.Close(); err != nil {
		t.Error(err)
	}
}
