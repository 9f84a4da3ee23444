package ipa

import (
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"commands": [{"id": "1", "command_name": "deploy.execute_deploy_step", "command_params": {"a": 1},
			"command_status": "RUNNING", "command_error": null, "command_result": null,
			"progress": {"bytes": 1, "total": 2}}]}`,
		`{"commands": [{"command_name": "sync", "command_status": "FAILED", "command_error": "text"}]}`,
		`{"commands": [{"command_status": "FAILED", "command_error": {"details": "d", "message": "m"}}]}`,
		`{"commands": [{"command_status": "FAILED", "command_error": [1, 2], "progress": {"bytes": -1}}]}`,
		`{"faultstring": "Agent is busy"}`, `{"commands": null}`, `[]`, "",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		decodeFault(data)
		list, err := decodeCommands(data)
		one, _ := decodeCommand(data)
		if err != nil && list != nil {
			t.Error("both a list and an error")
		}
		for _, c := range append(list, one) {
			failed := c.Failure() != nil
			if failed == (c.Status == Running || c.Status == Succeeded) {
				t.Errorf("%+v: failure %v", c, failed)
			}
			for _, text := range []string{c.ID, c.Name, string(c.Status), c.Error} {
				if len(text) > maxText || strings.ContainsAny(text, "\n\r") {
					t.Errorf("%q is no line of bounded length", text)
				}
			}
			if p := c.Progress; p != nil && (p.Bytes < 0 || p.Total < 0) {
				t.Errorf("%+v", p)
			}
		}
	})
}

// FuzzAbilities: what is kept of them is bounded, in order, and each step is found.
func FuzzAbilities(f *testing.F) {
	for _, seed := range []string{
		`{"deploy_steps": {"GenericHardwareManager": [{"step": "write_image", "priority": 0, "interface": "deploy",
			"reboot_requested": false}]}, "hardware_manager_version": {"generic_hardware_manager": "1.2"}}`,
		`{"deploy_steps": {"a": [{"step": "s", "interface": "i"}], "b": [{"step": "s", "interface": "i"}, {}]}}`,
		`{"deploy_steps": [], "hardware_manager_version": {"a": 1}}`, `{"deploy_steps": null}`, `null`, `[]`, "",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := decodeAbilities(data)
		if err != nil && (len(a.Steps) > 0 || len(a.Versions) > 0) {
			t.Error("both abilities and an error")
		}
		if len(a.Steps) > maxSteps || len(a.Versions) > maxManagers || !slices.IsSorted(a.Steps) {
			t.Errorf("%d steps, %d versions", len(a.Steps), len(a.Versions))
		}
		for _, s := range a.Steps {
			iface, step, _ := strings.Cut(s, ".")
			if len(s) > maxName || !a.Has(iface, step) {
				t.Errorf("%q", s)
			}
		}
	})
}

// FuzzShortener: JSON stays JSON, and with texts that are not long it stays as it is.
func FuzzShortener(f *testing.F) {
	for _, seed := range []string{`{"a": "0123456789", "b": ["\\\\\\\\\\\"", "\u00e4\u00e4\u00e4"]}`, `"1234567\\"`,
		`"1234567\u0041"`,
		`"\u"`, `"12345678\u12"`, `"12345678\`, `[1, null]`, `"ääääääääää"`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		short, err := io.ReadAll(&shortener{from: iotest.HalfReader(bytes.NewReader(data)), most: 8})
		if err != nil || json.Valid(data) && !json.Valid(short) || len(short) > len(data) {
			t.Errorf("%q became %q, %v", data, short, err)
		}
		same, err := io.ReadAll(&shortener{from: iotest.OneByteReader(bytes.NewReader(data)), most: len(data)})
		if err != nil || !bytes.Equal(same, data) {
			t.Errorf("%q became %q, %v", data, same, err)
		}
	})
}

// FuzzWords: one line of bounded length, with no user of a URL and no path of an image.
func FuzzWords(f *testing.F) {
	for _, seed := range []string{"a http://u:p@h/x?y#z b", "url: /agent_images/1/2", `https:\/\/h\/p`,
		"https%3a%2f%2fh", "\xff\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		const most = 40
		got := Words(text, most)
		if len(got) > most || !utf8.ValidString(got) || strings.ContainsAny(got, "\r\n") ||
			strings.Contains(got, "agent_images") {
			t.Errorf("%q became %q", text, got)
		}
		if said := "of http://user:secret@192.0.2.1/secret " + text; strings.Contains(Words(said, most), "secret@") {
			t.Errorf("%q became %q", said, Words(said, most))
		}
	})
}
