package conductor_test

import "testing"

// long keeps a test of many seconds out of `make unit`; `make e2e` runs it.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("long; runs in make e2e")
	}
}
