package server

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"ingot/internal/ingot"
)

// lock makes sure that no other process serves the same store: both would take each other's
// reservations for those of an earlier life. The kernel ends it with the process, however that
// ends; the file stays. It is not the store's own, since closing that would end SQLite's locks.
func lock(store string) (unlock func() error, err error) {
	path := store + ".lock"
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the store: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		f.Close()
		return nil, ingot.Errorf(ingot.Invalid, "another ingot serves the store %s; stop it first, "+
			"or name another store by [store] path or --data", store)
	case err != nil:
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f.Close, nil
}
