package bootfile

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"time"
)

const (
	// upkeepInterval is how often all files are read again, and cleaned up.
	upkeepInterval = 24 * time.Hour
	// minAge is how long what nobody wants stays in any case, however little space there is.
	minAge = 24 * time.Hour
	// readPause follows each MiB that is read to verify it, so that machines are served meanwhile.
	readPause = 20 * time.Millisecond
)

// upkeep verifies and cleans up until ctx ends.
func (k *Keeper) upkeep(ctx context.Context) {
	for {
		if err := k.CleanUp(ctx); err != nil && ctx.Err() == nil {
			k.Log.Error("cannot clean up the boot files; trying again", "after", upkeepInterval,
				"error", err)
		}
		k.Verify(ctx)
		select {
		case <-ctx.Done():
			return
		case <-time.After(upkeepInterval):
		}
	}
}

// Verify reads all files again and removes those that are not what their name says; they are fetched
// again if they are wanted (S0.7).
func (k *Keeper) Verify(ctx context.Context) {
	k.init()
	entries, _ := os.ReadDir(k.Cache.dir) // without a directory there is nothing to verify
	for _, e := range entries {
		if !isDigest(e.Name()) {
			continue
		}
		got, err := k.Cache.read(ctx, e.Name())
		if ctx.Err() != nil {
			return
		}
		if err == nil && got == e.Name() {
			continue
		}
		k.Log.Warn("a boot file on disk is damaged; it is removed, and fetched again if it is wanted",
			"sha256", e.Name(), "is", got, "error", err, "remedy", "look at the disk of the cache")
		if err := os.Remove(k.Cache.path(e.Name())); err != nil {
			k.Log.Error("cannot remove a damaged boot file", "error", err)
		}
		k.nudge()
	}
}

// read hashes a held file, slowly.
func (c *Cache) read(ctx context.Context, digest string) (string, error) {
	f, err := c.Open(digest)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for sum := sha256.New(); ; {
		switch _, err := io.CopyN(sum, f, 1<<20); err {
		case nil:
		case io.EOF:
			return hex.EncodeToString(sum.Sum(nil)), nil
		default:
			return "", err
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(readPause):
		}
	}
}

// CleanUp forgets what no node names or boots and nobody had a use for in MaxAge, or in a day if all
// together is more than MaxBytes; and removes the files that are not on record and as old (S0.8).
func (k *Keeper) CleanUp(ctx context.Context) error {
	if k.MaxAge <= 0 {
		return nil
	}
	rows, err := k.Store.BootFiles(ctx)
	if err != nil {
		return err
	}
	total := int64(0)
	for _, f := range rows {
		total += f.Size
	}
	age := max(k.MaxAge, minAge)
	if k.MaxBytes > 0 && total > k.MaxBytes {
		age = minAge
	}
	if _, err := k.Store.ForgetBootFiles(ctx, k.Store.Now().Add(-age)); err != nil {
		return err
	}
	if rows, err = k.Store.BootFiles(ctx); err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, f := range rows {
		wanted[f.SHA256] = true
	}
	entries, _ := os.ReadDir(k.Cache.dir) // without a directory there is nothing to remove
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !isDigest(e.Name()) || wanted[e.Name()] || time.Since(info.ModTime()) < age {
			continue
		}
		// One from before there was a record of them may still be booted.
		if used, err := k.Store.BootFileInUse(ctx, e.Name()); err != nil || used {
			if err != nil {
				return err
			}
			continue
		}
		if err := os.Remove(k.Cache.path(e.Name())); err != nil {
			return err
		}
		k.Log.Info("removed a boot file that nobody wants", "sha256", e.Name(), "bytes", info.Size())
	}
	return nil
}
