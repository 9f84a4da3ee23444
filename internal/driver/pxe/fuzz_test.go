package pxe_test

import (
	"net/url"
	"strings"
	"testing"

	"ingot/internal/ingot"
)

// commandsOfScripts are the words a line of a script may begin with.
var commandsOfScripts = map[string]bool{"#!ipxe": true, "echo": true, "isset": true, "set": true,
	"imgfree": true, "kernel": true, "initrd": true, "boot": true, "iseq": true, "sleep": true,
	"chain": true, "goto": true, "exit": true, "sanboot": true, "poweroff": true}

// FuzzConfigArguments asks ipxe_config with any query string. The answer is a script all the same,
// has no line that the query brought, and tells of a machine only to who named it.
func FuzzConfigArguments(f *testing.F) {
	for _, query := range []string{
		"", "port_address=" + mac, "port_address=01-52-54-00-12-34-56", "node_uuid=" + uuid,
		"port_address=%0Ashell&node_uuid=x", "port_address=52:54:00:99:99:99",
		"node_uuid=" + strings.ToUpper(uuid), "port_address=${netX/mac}",
		"port_address=5254.0012.3456&port_address=x", "%zz", "method=ipxe_config;a=b",
	} {
		f.Add(query)
	}
	w := newWorld(nil)
	if err := w.boot.PrepareRamdisk(f.Context(), w.task); err != nil {
		f.Fatal(err)
	}
	key := w.task.Node.Attempt.Key.Reveal()
	f.Fuzz(func(t *testing.T, query string) {
		w.notes = w.notes[:0]
		values, err := url.ParseQuery(query)
		if err != nil {
			return // the server answers 400 before anybody is asked
		}
		args := ingot.Object{}
		for name := range values {
			args[name] = values.Get(name)
		}
		script := w.config(t, args)
		for line := range strings.Lines(script) {
			word, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			if !commandsOfScripts[word] && !strings.HasPrefix(word, ":") {
				t.Errorf("%q brought the line %q", query, line)
			}
			if strings.ContainsFunc(line, func(r rune) bool { return r != '\n' && (r < ' ' || r > '~') }) {
				t.Errorf("%q brought %q", query, line)
			}
		}
		digits := strings.NewReplacer(":", "", "-", "", ".", "").Replace(
			strings.ToLower(values.Get("port_address")))
		named := strings.Contains(digits, "525400123456") || values.Get("node_uuid") == uuid
		if !named && (strings.Contains(script, key) || strings.Contains(script, uuid) ||
			strings.Contains(script, "n1")) {
			t.Errorf("%q learnt of a machine it did not name:\n%s", query, script)
		}
	})
}
