package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ingot/internal/fat"
)

// The floppy on which conductors put what they cannot put on the command line of a site's own ISO, as in Ironic.
const (
	floppyLabel = "ir-vfd-dev"
	floppyFile  = "parameters.txt"
	devices     = "/dev"
	// maxFloppy bounds what is looked at, in sectors of 512 bytes: it is no disk.
	maxFloppy = "100000"
)

// withFloppy is a command line with the parameters of the floppy, if it says that there is one and not which
// deployment this is. The drivers of the drive are loaded for that.
func withFloppy(ctx context.Context, line string) (string, error) {
	arg := arguments(line)
	if arg["boot_method"] != "vmedia" || arg["deployment_id"] != "" {
		return line, nil
	}
	if err := hush(func() error { return loadModules(modulesFile) }); err != nil {
		say("%v; going on without", err)
	}
	ctx, cancel := context.WithTimeout(ctx, diskPatience)
	defer cancel()
	for {
		parameters, err := readFloppy(sysBlock, devices)
		if err == nil {
			say("parameters are from the virtual floppy")
			return line + " " + parameters, nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("boot_method=vmedia, and no volume %s with %s comes: %w. Check that the virtual "+
				"floppy drive of the BMC is on", floppyLabel, floppyFile, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// readFloppy looks for the floppy among the block devices, which are directories of sys and files of dev.
func readFloppy(sys, dev string) (parameters string, err error) {
	entries, err := os.ReadDir(sys)
	if err != nil {
		return "", fmt.Errorf("list block devices: %w", err)
	}
	err = errors.New("no block device has it")
	for _, e := range entries {
		size, sizeErr := os.ReadFile(filepath.Join(sys, e.Name(), "size"))
		text := strings.TrimSpace(string(size))
		if sizeErr != nil || text == "0" || len(text) >= len(maxFloppy) {
			continue
		}
		label, data, readErr := readParameters(filepath.Join(dev, e.Name()))
		switch {
		case label != floppyLabel:
		case readErr != nil:
			err = fmt.Errorf("%s: %w", e.Name(), readErr)
		default:
			return clean(string(data)), nil
		}
	}
	return "", err
}

func readParameters(device string) (label string, data []byte, err error) {
	f, err := os.Open(device)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	return fat.ReadFile(f, floppyFile)
}

// clean makes a command line of the lines of a file. A quote would join what follows.
func clean(text string) string {
	var words []string
	for line := range strings.Lines(text) {
		word := strings.TrimSpace(line)
		if strings.Contains(word, "=") && !strings.ContainsAny(word, " \t\"") {
			words = append(words, word)
		}
	}
	return strings.Join(words, " ")
}
