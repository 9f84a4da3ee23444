package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestExitCodesAndWordsOfWrongCommands(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "ingot.toml")
	text := []byte("[api]\nlisten = \"x:1\"\nlistn = \"y\"\n")
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	// Port 1 of loopback refuses connections.
	const nobody = "--url=http://127.0.0.1:1"
	for line, want := range map[string]struct {
		code int
		text string
	}{
		"bogus":                         {2, "unknown command \"bogus\""},
		"node lst":                      {2, "unknown command \"lst\" for \"ingot node\"; did you mean list?"},
		"node history":                  {2, "did you mean journal?"},
		"node power":                    {2, "Usage: ingot node power NAME [on|off"},
		"node list --bogus":             {2, "unknown flag"},
		"node deploy":                   {2, "accepts 1 arg"},
		"serve":                         {2, "--dev"},
		"serve --dev --config x":        {2, "one or the other"},
		"serve --dev --listen 0.0.0.0:": {1, "loopback"},
		"serve --config " + config:      {1, ":3: unknown key \"api.listn\""},
		"serve --dev --force":           {2, "stop the other"},
		"serve --dev --database mysql://u:secret@db.example/x":      {1, "write postgres://"},
		"serve --dev --database postgres://u:secret@127.0.0.1:1/x":  {1, "correct [store] url"},
		"config check " + config:                                    {1, ":3: unknown key \"api.listn\""},
		"node list " + nobody:                                       {6, "is `ingot serve` running"},
		"node list --url=nonsense":                                  {2, "write for example http://"},
		"node list -o xml":                                          {2, "table or json"},
		"node create a " + nobody:                                   {2, "--bmc is missing"},
		"node power a up " + nobody:                                 {2, "on, off, reboot"},
		"node deploy a --image http://x/y --checksum abc " + nobody: {2, "sha256"},
		"lifecycle --format x":                                      {1, "mermaid"},
		"lab console x":                                             {1, "ingot lab up"},
		"lab up --machines 0":                                       {2, "1 to 50"},
		"lab up --bmc telnet":                                       {2, "ipmi, redfish, ilo or ilo4"},
		"lab simulate --interface lo --machines 0":                  {2, "1 to 10000"},
		"lab simulate --interface lo --series 16777216":             {2, "0 to 16777215"},
		"drill --running --interface lo --kill 1":                   {2, "--kill does not go with --running"},
		"drill --running --interface lo --tftp":                     {2, "--tftp does not go with --running"},
		"drill --interface lo":                                      {2, "--interface goes with --running only"},
		"drill --keep":                                              {2, "--keep goes with --running only"},
		"drill --running":                                           {2, "--interface is missing"},
		"drill --running --machines 20000":                          {2, "1 to 10000"},
		"lab simulate --interface lo --disk-size -1":                {2, "negative"},
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			var out, errs bytes.Buffer
			code := run(t.Context(), strings.Fields(line), &out, &errs)
			if code != want.code || !strings.Contains(errs.String(), want.text) {
				t.Errorf("exit code %d, want %d with %q; said %s", code, want.code, want.text,
					errs.String())
			}
			if strings.Contains(errs.String(), "secret") {
				t.Errorf("it tells the password: %s", errs.String())
			}
		})
	}
}

func TestEveryCommandHasHelpWithAnExample(t *testing.T) {
	t.Parallel()
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || c.Example == "" {
			t.Errorf("%s: short help %q, example %q; both are wanted", c.CommandPath(), c.Short,
				c.Example)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(command())
}

func TestLifecycleIsPrinted(t *testing.T) {
	t.Parallel()
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"lifecycle"}, &out, &errs); code != 0 {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	if !strings.Contains(out.String(), "wait call-back") {
		t.Errorf("no state \"wait call-back\" in:\n%s", out.String())
	}
}
