package conductor_test

import (
	"flag"
	"os"
	"testing"

	"ingot/internal/store/storetest"
)

// TestMain runs the tests on PostgreSQL, too, if there is time.
func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		os.Exit(storetest.Run(m))
	}
	os.Exit(storetest.Main(m))
}
