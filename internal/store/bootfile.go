package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"ingot/internal/ingot"
)

// BootFile is a file that machines boot, or will: all conductors hold it.
type BootFile struct {
	ID int64
	// Source is the URL it comes from.
	Source string
	// File is what the source had; its SHA256 is "" in the row which says that the source is named,
	// whatever it has.
	ingot.File
	// ETag and Modified are what the source's HTTP server said of it; "" for nothing.
	ETag, Modified string
	// WantedAt is when somebody last had a use for it, to the hour: of several files of a source
	// the latest is what it has.
	WantedAt time.Time
}

var bootFiles = table[BootFile]{name: "boot_files", label: "Boot file", key: "source",
	columns: []column[BootFile]{
		{name: "id", use: given, at: func(f *BootFile) any { return &f.ID }},
		{name: "source", at: func(f *BootFile) any { return &f.Source }},
		{name: "sha256", at: func(f *BootFile) any { return &f.SHA256 }},
		{name: "name", at: func(f *BootFile) any { return &f.Name }},
		{name: "size", at: func(f *BootFile) any { return &f.Size }},
		{name: "etag", at: func(f *BootFile) any { return &f.ETag }},
		{name: "modified", at: func(f *BootFile) any { return &f.Modified }},
		{name: "wanted_at", at: func(f *BootFile) any { return moment{&f.WantedAt} }},
	}}

const (
	// wantedStep is how old WantedAt may be before a use of the file is written down again.
	wantedStep = time.Hour
	// maxSource bounds sources, bytes: PostgreSQL has no index for longer values. None is a URL.
	maxSource = 2000
)

const wantBootFile = `INSERT INTO boot_files (source, sha256, wanted_at) VALUES ($1, '', $2)
	ON CONFLICT (source, sha256) DO UPDATE SET wanted_at = excluded.wanted_at`

// wantOf writes down the files that a node will boot when it is deployed (S0.4), in the transaction
// that writes the node. What BootFiles has read lately costs nothing.
func wantOf(ctx context.Context, tx *tx, n *ingot.Node) error {
	var sources []string
	for _, key := range []string{"deploy_kernel", "deploy_ramdisk"} {
		if source, _ := n.DriverInfo[key].(string); isSource(source) {
			sources = append(sources, source)
		}
	}
	slices.Sort(sources) // all lock the rows in this order
	for _, source := range slices.Compact(sources) {
		if tx.now.Sub(tx.wanted[source]) < wantedStep {
			continue
		}
		if _, err := tx.ExecContext(ctx, wantBootFile, source, tx.now.UnixMicro()); err != nil {
			return err
		}
	}
	return nil
}

func isSource(s string) bool {
	return s != "" && len(s) <= maxSource && utf8.ValidString(s) &&
		!strings.ContainsFunc(s, unicode.IsControl)
}

// WantBootFile says that machines will boot what a source has; any conductor finds out what that is.
// What is no URL is ignored: whoever boots it is told.
func (s *Store) WantBootFile(ctx context.Context, source string) error {
	if wanted := s.wanted.Load(); !isSource(source) || wanted != nil &&
		s.Now().Sub((*wanted)[source]) < wantedStep {
		return nil
	}
	return s.writeBeside(ctx, "want boot file "+source, func(tx *tx) error {
		_, err := tx.ExecContext(ctx, wantBootFile, source, tx.now.UnixMicro())
		return err
	})
}

// BootFiles returns all that is wanted, by source and digest.
func (s *Store) BootFiles(ctx context.Context) (list []*BootFile, err error) {
	err = s.read(ctx, "list boot files", func(tx *tx) error {
		list, err = bootFiles.collect(ctx, tx, nil, where{}, "source, sha256", 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	wanted := map[string]time.Time{}
	for _, f := range list {
		if f.SHA256 == "" {
			wanted[f.Source] = f.WantedAt
		}
	}
	s.wanted.Store(&wanted)
	return list, nil
}

// BootFile returns what a source has, as far as is known: NotFound if nobody has fetched it yet.
func (s *Store) BootFile(ctx context.Context, source string) (f *BootFile, err error) {
	err = s.read(ctx, "read boot file "+source, func(tx *tx) error {
		f, err = bootFile(ctx, tx, source)
		return err
	})
	return f, err
}

func bootFile(ctx context.Context, tx *tx, source string) (*BootFile, error) {
	f, err := bootFiles.scan(tx.QueryRowContext(ctx, bootFiles.selectFrom()+
		" WHERE source = $1 AND sha256 <> '' ORDER BY wanted_at DESC, sha256 LIMIT 1", source))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, bootFiles.notFound(source)
	}
	return f, err
}

// KeepBootFile says what a source has, which all conductors shall hold from now on, and ends the
// claim to find out. It tells whether that is news. A node is written with a digest only after it.
func (s *Store) KeepBootFile(ctx context.Context, f BootFile) (news bool, err error) {
	known, err := s.BootFile(ctx, f.Source)
	if err != nil && ingot.KindOf(err) != ingot.NotFound {
		return false, err
	}
	if err == nil && known.File == f.File && known.ETag == f.ETag && known.Modified == f.Modified &&
		s.Now().Sub(known.WantedAt) < wantedStep {
		return false, nil
	}
	if !isSource(f.Source) {
		return false, nil
	}
	return err != nil || known.SHA256 != f.SHA256, s.writeBeside(ctx, "keep boot file "+f.Source, func(tx *tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO boot_files (source, sha256, name, size, etag,
				modified, wanted_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
			ON CONFLICT (source, sha256) DO UPDATE SET name = excluded.name, size = excluded.size,
				etag = excluded.etag, modified = excluded.modified, wanted_at = excluded.wanted_at`,
			f.Source, f.SHA256, f.Name, f.Size, f.ETag, f.Modified, tx.now.UnixMicro())
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE boot_files SET fetch_until = 0
			WHERE source = $1 AND sha256 = ''`, f.Source)
		return err
	})
}

// ClaimBootFile makes a conductor the one that asks the source for a digest for so long; the digest
// "" is whatever it has, which nobody may claim once it is known. It tells whether it is that one.
// To claim it again is to go on; a duration of 0 gives it back.
func (s *Store) ClaimBootFile(ctx context.Context, source, digest, host string,
	d time.Duration) (mine bool, err error) {
	err = s.writeBeside(ctx, "claim boot file "+source, func(tx *tx) error {
		count, err := changed(tx.ExecContext(ctx, `UPDATE boot_files SET fetcher = $1, fetch_until = $2
			WHERE source = $3 AND sha256 = $4 AND (fetcher = $1 OR fetch_until <= $5)
			AND (sha256 <> '' OR NOT EXISTS (SELECT 1 FROM boot_files AS known
				WHERE known.source = $3 AND known.sha256 <> ''))`,
			host, tx.now.Add(d).UnixMicro(), source, digest, tx.now.UnixMicro()))
		mine = count == 1
		return err
	})
	return mine, err
}

// ForgetBootFiles removes what was last wanted before a time and what no node has any more, nor boots,
// nor would boot next. The nodes are searched for each such row, which is then left alone for as long
// again. It returns how many are forgotten.
func (s *Store) ForgetBootFiles(ctx context.Context, before time.Time) (count int, err error) {
	var old []*BootFile
	err = s.read(ctx, "list old boot files", func(tx *tx) error {
		var w where
		w.add("wanted_at < ?", before.UnixMicro())
		w.add("checked_at < ?", before.UnixMicro())
		old, err = bootFiles.collect(ctx, tx, nil, w, "sha256, source", 0) // sources first
		return err
	})
	for _, f := range old {
		used := false
		err = errors.Join(err, s.read(ctx, "look who uses a boot file", func(tx *tx) (err error) {
			used, err = bootFileUsed(ctx, tx, f)
			return err
		}))
		if err != nil {
			return count, err
		}
		err = s.writeBeside(ctx, "forget boot file "+f.Source, func(tx *tx) error {
			if used {
				_, err := tx.ExecContext(ctx, `UPDATE boot_files SET checked_at = $1 WHERE id = $2`,
					tx.now.UnixMicro(), f.ID)
				return err
			}
			// Who has a use for it in the meantime has changed wanted_at.
			n, err := changed(tx.ExecContext(ctx, `DELETE FROM boot_files WHERE id = $1
				AND wanted_at = $2`, f.ID, f.WantedAt.UnixMicro()))
			count += int(n)
			return err
		})
		if err != nil {
			return count, err
		}
	}
	return count, err
}

func bootFileUsed(ctx context.Context, tx *tx, f *BootFile) (bool, error) {
	condition, text := bootsDigest, f.SHA256
	if f.SHA256 == "" {
		encoded, err := json.Marshal(f.Source)
		if err != nil {
			return false, err
		}
		condition = `driver_info LIKE $1 ESCAPE '!'`
		text = strings.NewReplacer("!", "!!", "%", "!%", "_", "!_").Replace(string(encoded))
	} else {
		latest, err := bootFile(ctx, tx, f.Source)
		if err != nil {
			return false, err
		}
		var named int
		err = tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM boot_files WHERE source = $1
			AND sha256 = ''`, f.Source).Scan(&named)
		if err != nil || named > 0 && latest.SHA256 == f.SHA256 {
			return true, err
		}
	}
	return anyNode(ctx, tx, condition, "%"+text+"%")
}

// BootFileInUse tells whether a node boots a file, on record or not.
func (s *Store) BootFileInUse(ctx context.Context, digest string) (used bool, err error) {
	err = s.read(ctx, "look who boots "+digest, func(tx *tx) error {
		used, err = anyNode(ctx, tx, bootsDigest, "%"+digest+"%")
		return err
	})
	return used, err
}

const bootsDigest = "attempt LIKE $1 OR instance LIKE $1"

func anyNode(ctx context.Context, tx *tx, condition, text string) (bool, error) {
	var found int
	err := tx.QueryRowContext(ctx, "SELECT COUNT(*) FROM (SELECT 1 FROM nodes WHERE "+condition+
		" LIMIT 1) AS found", text).Scan(&found)
	return found > 0, err
}
