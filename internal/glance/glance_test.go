package glance_test

import (
	"testing"

	"ingot/internal/glance"
	"ingot/internal/ingot"
	"ingot/internal/keystone"
)

const id = "0b7bb5e0-8a2c-4a0e-9c0d-1f2e3d4c5b6a"

func TestReferencesToImages(t *testing.T) {
	t.Parallel()
	for reference, want := range map[string]string{
		id: id, "glance://" + id: id, "GLANCE://0B7BB5E0-8A2C-4A0E-9C0D-1F2E3D4C5B6A": id,
		"glance://name": "name", "http://x/" + id: "", "file:///x": "", "": "", id + "0": "", id[1:]: "",
		"0b7bb5e0_8a2c_4a0e_9c0d_1f2e3d4c5b6a": "", "0b7bb5e0-8a2c-4a0e-9c0d-1f2e3d4c5b6g": "",
	} {
		if got, ok := glance.ID(reference); ok != (want != "") || ok && got != want {
			t.Errorf("%q: %q, %v", reference, got, ok)
		}
	}
}

func TestANameIsNoID(t *testing.T) {
	t.Parallel()
	s, err := keystone.NewSession(keystone.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []string{"", "ubuntu", "../tasks", id + "/file"} {
		_, err := glance.NewOpen(s, "http://127.0.0.1:1").Show(t.Context(), wrong)
		if ingot.KindOf(err) != ingot.Invalid {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}
