package ingot_test

import (
	"regexp"
	"testing"

	"ingot/internal/ingot"
)

func TestUUIDsAreRandomAndWellFormed(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	for _, bad := range []string{"", "not one", "00000000-0000-0000-0000-00000000000",
		"00000000-0000-0000-0000-00000000000A", "000000000-000-0000-0000-000000000000",
		"00000000-0000-0000-0000-0000000000000"} {
		if ingot.IsUUID(bad) {
			t.Errorf("%q is one", bad)
		}
	}
	seen := map[string]bool{}
	for range 1000 {
		u := ingot.NewUUID()
		if !form.MatchString(u) || !ingot.IsUUID(u) || seen[u] {
			t.Fatalf("UUID %s is malformed or came twice", u)
		}
		seen[u] = true
	}
}
