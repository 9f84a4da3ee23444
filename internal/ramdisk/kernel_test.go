package ramdisk_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot/internal/ramdisk"
)

// TestMissingPackageListsAreExplained puts an apt-cache before Debian's that knows nothing, or
// only part of what is needed. It changes PATH, so it is not parallel.
func TestMissingPackageListsAreExplained(t *testing.T) {
	for _, script := range []string{
		"exit 100",
		"echo '  Depends: linux-image-9.9.9-cloud-amd64'",
		"echo '  Depends: linux-image-9.9.9-cloud-amd64'; echo '  Candidate: (none)'",
	} {
		dir := t.TempDir()
		err := os.WriteFile(filepath.Join(dir, "apt-cache"), []byte("#!/bin/sh\n"+script+"\n"), 0o755)
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
		_, err = ramdisk.Build(t.Context(), ramdisk.Options{OutDir: dir, CacheDir: dir,
			AgentPath: agent})
		if err == nil || !strings.Contains(err.Error(), "run apt-get update") {
			t.Errorf("with %q the error is %v, want one that says what to do", script, err)
		}
	}
}
