package bootfile_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/bootfile"
)

func TestWhatDiffersBetweenBootTreesIsNamed(t *testing.T) {
	t.Parallel()
	lacks := []bootfile.Missing{{SHA256: "aa", Name: "vmlinuz", Source: "http://img/vmlinuz"}}
	got := bootfile.Compare(map[string]bootfile.Inventory{
		"r1": {Tree: "1", Programs: map[string]string{"ipxe.efi": "11", "shimx64.efi": "22"}},
		"r2": {Tree: "2", Programs: map[string]string{"ipxe.efi": "99"}, Missing: lacks},
		"r3": {Tree: "1", Programs: map[string]string{"ipxe.efi": "11", "shimx64.efi": "22"}},
		"r4": {Tree: "3", Programs: map[string]string{"ipxe.efi": "11", "shimx64.efi": "22", "x.0": "33"}},
		"r5": {},
	})
	want := []bootfile.Difference{
		{Host: "r2", Name: "vmlinuz", SHA256: "aa", Source: "http://img/vmlinuz",
			Problem: "is wanted, and not here"},
		{Host: "r5", Problem: "has not looked at its boot files yet"},
		{Host: "r2", Name: "ipxe.efi", SHA256: "99",
			Problem: "boot program has other content than on the others, 11"},
		{Host: "r2", Name: "shimx64.efi", Problem: "boot program is not here; others have 22"},
		{Host: "r4", Name: "x.0", SHA256: "33", Problem: "boot program is not on the others"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	same := bootfile.Inventory{Tree: "1", Programs: map[string]string{"ipxe.efi": "11"}}
	if got := bootfile.Compare(map[string]bootfile.Inventory{"r1": same, "r2": same}); got != nil {
		t.Errorf("of two that are the same: %v", got)
	}
}
