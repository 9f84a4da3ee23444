package agent

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// said is what the agent has put on the console. It is package state since the console is.
var said lines

// maxLines is how many lines are kept.
const maxLines = 500

// lines keeps the last ones.
type lines struct {
	mu   sync.Mutex
	text []string // guarded by mu
}

func (l *lines) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text = append(l.text, line); len(l.text) > maxLines {
		l.text = append([]string(nil), l.text[maxLines/5:]...)
	}
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.text, "\n") + "\n"
}

// kernelLog reads what the kernel has said, see syslog(2).
func kernelLog() (string, error) {
	size, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil)
	if err != nil {
		return "", fmt.Errorf("read kernel log: %w", err)
	}
	text := make([]byte, size)
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, text)
	if err != nil {
		return "", fmt.Errorf("read kernel log: %w", err)
	}
	return string(text[:n]), nil
}

// packLogs makes of logs what the conductor keeps as a file: tar, gzip, base64. Secrets, which were on
// the kernel command line, are taken out.
func packLogs(logs map[string]string, secrets ...string) (string, error) {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	archive := tar.NewWriter(z)
	for _, name := range []string{"agent.log", "dmesg"} {
		text := logs[name]
		for _, secret := range secrets {
			if secret != "" {
				text = strings.ReplaceAll(text, secret, hiddenToken)
			}
		}
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), Format: tar.FormatUSTAR}
		if err := archive.WriteHeader(h); err != nil {
			return "", fmt.Errorf("pack logs: %w", err)
		}
		if _, err := archive.Write([]byte(text)); err != nil {
			return "", fmt.Errorf("pack logs: %w", err)
		}
	}
	if err := archive.Close(); err != nil {
		return "", fmt.Errorf("pack logs: %w", err)
	}
	if err := z.Close(); err != nil {
		return "", fmt.Errorf("pack logs: %w", err)
	}
	return base64.StdEncoding.EncodeToString(out.Bytes()), nil
}
