package store_test

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

// sizes of fleets: what costs the same in both does not grow with the fleet.
var sizes = []int{100, 10_000}

// bench runs f on a store with that many nodes; names are n0, n1...
func bench(b *testing.B, f func(b *testing.B, s *store.Store, size int)) {
	for _, size := range sizes {
		b.Run(fmt.Sprintf("nodes=%d", size), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "ingot.db")
			s := openAt(b, path)
			multiply(b, s, path, size)
			b.ResetTimer()
			f(b, s, size)
		})
	}
}

// multiply fills the store with copies of a usual node, in one transaction.
func multiply(b *testing.B, s *store.Store, path string, size int) {
	b.Helper()
	first := fullNode()
	first.UUID, first.Name, first.InstanceUUID, first.Attempt = uuid(0), "n0", "", nil
	first.DriverInfo = ingot.Object{"ipmi_address": "10.0.0.1", "ipmi_username": "admin",
		"ipmi_password": "calvin", "deploy_kernel": "http://10.0.0.1/vmlinuz",
		"deploy_ramdisk": "http://10.0.0.1/initrd"}
	first.Properties = ingot.Object{"cpus": 8, "memory_mb": 65536, "local_gb": 200}
	create(b, s, first)
	db, err := sql.Open("sqlite", path)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query(`SELECT name FROM pragma_table_info('nodes')
		WHERE name NOT IN ('id', 'uuid', 'name')`)
	if err != nil {
		b.Fatal(err)
	}
	columns := ""
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			b.Fatal(err)
		}
		columns += ", " + name
	}
	if err := rows.Err(); err != nil {
		b.Fatal(err)
	}
	_, err = db.Exec(`WITH RECURSIVE i (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < $1)
		INSERT INTO nodes (uuid, name`+columns+`)
		SELECT printf('00000000-0000-4000-8000-%012d', i), 'n' || i`+columns+` FROM i, nodes`,
		size-1)
	if err != nil {
		b.Fatal(err)
	}
}

func BenchmarkPage(b *testing.B) {
	bench(b, func(b *testing.B, s *store.Store, size int) {
		for _, key := range []string{"id", "name", "provision_state"} {
			b.Run("key="+key, func(b *testing.B) {
				page := store.Page{SortKey: key, Limit: 50, Marker: uuid(size / 2)}
				for b.Loop() {
					list, err := s.Nodes(b.Context(), store.NodeFilter{}, page)
					if err != nil || len(list) == 0 {
						b.Fatal(len(list), err)
					}
				}
			})
		}
	})
}

func BenchmarkNode(b *testing.B) {
	bench(b, func(b *testing.B, s *store.Store, size int) {
		for b.Loop() {
			if _, err := s.Node(b.Context(), uuid(size/2)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkNodeParallel is what boot answers of a starting rack cost.
func BenchmarkNodeParallel(b *testing.B) {
	bench(b, func(b *testing.B, s *store.Store, size int) {
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				if _, err := s.Node(b.Context(), uuid(size/2)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}

func BenchmarkUpdateNode(b *testing.B) {
	bench(b, func(b *testing.B, s *store.Store, size int) {
		n, err := s.Node(b.Context(), uuid(size/2))
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if err := s.UpdateNode(b.Context(), n); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkReserveAndRelease(b *testing.B) {
	bench(b, func(b *testing.B, s *store.Store, size int) {
		for b.Loop() {
			n, err := s.Reserve(b.Context(), uuid(size/2), "c1")
			if err != nil {
				b.Fatal(err)
			}
			if err := s.Release(b.Context(), n); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkDue is what a reconciler that looks for passed deadlines costs when there are none.
func BenchmarkDue(b *testing.B) {
	bench(b, func(b *testing.B, s *store.Store, size int) {
		first := fullNode().WaitUntil
		for b.Loop() {
			list, err := s.Nodes(b.Context(), store.NodeFilter{WaitBefore: first,
				Reserved: ptr(false), Maintenance: ptr(false)}, store.Page{Limit: 10})
			if err != nil || len(list) != 0 {
				b.Fatal(len(list), err)
			}
		}
	})
}

func BenchmarkAppendJournal(b *testing.B) {
	s := open(b)
	entries := make([]ingot.Entry, 256)
	for i := range entries {
		entries[i] = ingot.Entry{Node: uuid(i % 16), Source: "dhcp", Level: "info",
			Text: "asked for an address and got 10.0.0.1", Data: ingot.Object{"bytes": 300}}
	}
	for b.Loop() {
		if err := s.AppendJournal(b.Context(), entries); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(len(entries)), "us/entry")
}

func BenchmarkOpen(b *testing.B) {
	for _, size := range sizes {
		b.Run(fmt.Sprintf("nodes=%d", size), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "ingot.db")
			multiply(b, openAt(b, path), path, size)
			for b.Loop() {
				s, err := store.Open(b.Context(), store.Options{Path: path})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := s.Node(b.Context(), uuid(1)); err != nil {
					b.Fatal(err)
				}
				s.Close()
			}
		})
	}
}

// BenchmarkMachine is what a boot answer looks up: a machine that is remembered, all of a fleet
// after a start, and one whose rows have to be looked at because some port was written.
func BenchmarkMachine(b *testing.B) {
	const ports = 16384
	path := filepath.Join(b.TempDir(), "ingot.db")
	s := openAt(b, path)
	createPort(b, s, newPort(1, create(b, s, fullNode()), "52:54:00:00:00:00"))
	db, err := sql.Open("sqlite", path)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	_, err = db.Exec(`WITH RECURSIVE i (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < $1)
		INSERT INTO ports (generation, uuid, node_id, address, pxe_enabled, is_smartnic,
			local_link_connection, extra, internal_info, created_at)
		SELECT 1, printf('10000000-0000-4000-8000-%012d', i), node_id,
			printf('52:54:00:00:%02x:%02x', i >> 8, i & 255), pxe_enabled, is_smartnic,
			local_link_connection, extra, internal_info, created_at FROM i, ports`, ports-1)
	if err != nil {
		b.Fatal(err)
	}
	look := func(b *testing.B, s *store.Store, i int) {
		mac := fmt.Sprintf("52:54:00:00:%02x:%02x", i>>8, i&0xff)
		if _, _, err := s.Machine(b.Context(), mac); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("remembered", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			look(b, s, 1)
		}
	})
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			s := openAt(b, path)
			for i := range ports {
				look(b, s, i*4099%ports) // in no order
			}
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/ports, "us/machine")
	})
	b.Run("looked at", func(b *testing.B) {
		b.ReportAllocs()
		p, err := s.Port(b.Context(), "10000000-0000-4000-8000-000000000001")
		if err != nil {
			b.Fatal(err)
		}
		for i := 0; b.Loop(); i++ {
			if i%ports == 0 { // from now on each has to be looked at
				b.StopTimer()
				if err := s.UpdatePort(b.Context(), p); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			look(b, s, i*4099%ports)
		}
	})
}
