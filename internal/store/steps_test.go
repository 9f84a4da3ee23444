package store

import (
	"strings"
	"testing"
	"testing/fstest"
)

func TestMigrationsHaveNumbersWithoutGaps(t *testing.T) {
	t.Parallel()
	all, err := steps(migrations)
	if err != nil || len(all) == 0 {
		t.Errorf("embedded migrations: %v, %v", all, err)
	}
	for _, names := range [][]string{
		{"migrations/0002_a.sql"},
		{"migrations/0001_a.sql", "migrations/0001_b.sql"},
		{"migrations/0001_a.sql", "migrations/0003_b.sql"},
		{"migrations/first.sql"},
	} {
		files := fstest.MapFS{}
		for _, name := range names {
			files[name] = &fstest.MapFile{}
		}
		if _, err := steps(files); err == nil || !strings.Contains(err.Error(), "number") {
			t.Errorf("migrations %v: %v", names, err)
		}
	}
}
