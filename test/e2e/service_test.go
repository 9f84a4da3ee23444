package e2e

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"ingot/internal/lab"
	"ingot/internal/postgres"
	"ingot/internal/ramdisk"
	"ingot/internal/sim/guest"
	"ingot/internal/testkit"
)

// The service address is where a server lives: whatever happens to the one that has it, another one answers
// there, to a client that has asked the one before.
func TestTheServiceAddressGoesToAServerThatLives(t *testing.T) {
	requirements(t)
	p, err := postgres.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	dir := t.TempDir()
	files := &lab.Files{Image: guest.Image{RawPath: filepath.Join(dir, "disk.raw")}}
	files.Ramdisk.Kernel, files.Ramdisk.Ramdisk = file(t, dir, "kernel"), file(t, dir, "ramdisk")
	binary, err := filepath.Abs(binary)
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.Start(t.Context(), lab.Options{Dir: buildDir(t, "e2e-service"), Binary: binary, Progress: testWriter{t},
		Conductors: 2, Database: p.URL, ServiceAddress: true, Files: files})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	db, err := pgx.Connect(t.Context(), p.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.Background())
	// holder is who has the address, and answers there.
	holder := func() *lab.Server {
		var host string
		err := db.QueryRow(t.Context(), `SELECT hostname FROM locks JOIN conductors ON incarnation = holder
			WHERE name = 'address 10.77.0.5'`).Scan(&host)
		client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true,
			DialContext: l.Network.Dial}}
		resp, err2 := client.Get("http://10.77.0.5:8080/")
		if err != nil || err2 != nil {
			return nil
		}
		resp.Body.Close()
		for _, s := range l.Servers {
			if s.Host == host {
				return s
			}
		}
		return nil
	}
	for _, c := range []struct {
		what     string
		do, undo func(s *lab.Server) error
	}{
		{"killed", (*lab.Server).Kill, func(s *lab.Server) error { return s.Start(t.Context()) }},
		{"stopped in order", (*lab.Server).Stop, func(s *lab.Server) error { return s.Start(t.Context()) }},
		{"standing still", (*lab.Server).Pause, (*lab.Server).Continue},
		{"cut off", func(s *lab.Server) error { return s.Unplug(t.Context()) },
			func(s *lab.Server) error { return s.Plug(t.Context()) }},
		{"drained", func(s *lab.Server) error { return setDrained(t, s, true) },
			func(s *lab.Server) error { return setDrained(t, s, false) }},
	} {
		var before, after *lab.Server
		testkit.Eventually(t, "one has it", func() bool { before = holder(); return before != nil })
		begin := time.Now()
		if err := c.do(before); err != nil {
			t.Fatal(c.what, err)
		}
		testkit.Eventually(t, "another one has it: "+c.what, func() bool {
			after = holder()
			return after != nil && after != before
		})
		t.Logf("%s: answered by another one after %.1f s", c.what, time.Since(begin).Seconds())
		if err := c.undo(before); err != nil {
			t.Fatal(c.what, err)
		}
		testkit.Eventually(t, "both are there", func() bool {
			var n int
			err := db.QueryRow(t.Context(), `SELECT count(*) FROM conductors WHERE NOT draining AND
				updated_at > (extract(epoch FROM clock_timestamp()) - 4) * 1000000`).Scan(&n)
			return err == nil && n == 2
		})
		if holder() != after {
			t.Errorf("%s: who is back has taken it away", c.what)
		}
	}
}

// setDrained has a server drained, or not any more.
func setDrained(t *testing.T, s *lab.Server, yes bool) error {
	api, err := s.Client()
	if err != nil {
		return err
	}
	return api.Drain(t.Context(), s.Host, yes)
}

// file is one of few bytes.
func file(t *testing.T, dir, name string) ramdisk.File {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
		t.Fatal(err)
	}
	return ramdisk.File{Path: path, Bytes: int64(len(name))}
}
