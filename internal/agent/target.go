package agent

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// portal is where the target listens; 3260 is the port of RFC 7143 section 14.
const portal = "0.0.0.0:3260"

// Credentials are what an initiator must know for CHAP (RFC 1994).
type Credentials struct {
	User, Secret string
}

// NewCredentials makes up credentials for one deploy. The secret has 128 bits, above the 96
// that RFC 7143 section 9.2.1 asks for.
func NewCredentials() Credentials {
	return Credentials{User: "ingot", Secret: rand.Text()}
}

// newSerial makes up a unit serial number.
func newSerial() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// A target is an exported disk: an entry of the kernel's target (LIO) in configfs.
type target struct {
	root string // configfs directory of the target: /sys/kernel/config/target
	iqn  string
	// portal is where it listens, as in 0.0.0.0:3260.
	portal string
	disk   Disk
	login  Credentials // zero: no CHAP
	// serial is the unit serial number, hexadecimal and another one for each boot: an initiator
	// that connects again must see whether it still has this disk, as it left it.
	serial string
	about  string // the disk and why it was chosen, for people
}

// A setting is one write to an attribute of configfs.
type setting struct {
	path, value string
}

// backend and group are the two directories that make up the target.
func (t target) backend() string { return filepath.Join(t.root, "core/iblock_0/disk") }
func (t target) group() string   { return filepath.Join(t.root, "iscsi", t.iqn, "tpgt_1") }

// lun is what initiators see, mapping its link to the back end, and listener the portal.
func (t target) lun() string      { return filepath.Join(t.group(), "lun/lun_1") }
func (t target) mapping() string  { return filepath.Join(t.lun(), "disk") }
func (t target) listener() string { return filepath.Join(t.group(), "np", t.portal) }

// settings lists what is written after the directories exist, in order.
//
// Demo mode (generate_node_acls) lets any initiator name in, so what protects the disk is CHAP
// on the portal group: with authentication=1 the kernel refuses AuthMethod=None and takes the
// login of a made-up ACL from the group's own auth directory.
func (t target) settings() []setting {
	back, group := t.backend(), t.group()
	list := []setting{
		{back + "/control", "udev_path=/dev/" + t.disk.Name},
		{back + "/enable", "1"},
		{back + "/wwn/vpd_unit_serial", t.serial},
	}
	if t.disk.Discards {
		// Only then: UNMAP and WRITE SAME to a disk without discard end in an internal target
		// failure, in the middle of the image.
		list = append(list, setting{back + "/attrib/emulate_tpu", "1"},
			setting{back + "/attrib/emulate_tpws", "1"})
	}
	authentication := "0"
	if t.login != (Credentials{}) {
		authentication = "1"
		list = append(list, setting{group + "/auth/userid", t.login.User},
			setting{group + "/auth/password", t.login.Secret})
	}
	return append(list,
		setting{group + "/attrib/authentication", authentication},
		setting{group + "/attrib/generate_node_acls", "1"},
		setting{group + "/attrib/cache_dynamic_acls", "1"},
		setting{group + "/attrib/demo_mode_write_protect", "0"},
		// The defaults (8 KiB segments, R2T before any data) cost a round trip per command.
		setting{group + "/param/MaxRecvDataSegmentLength", "262144"},
		setting{group + "/param/MaxBurstLength", "1048576"},
		setting{group + "/param/FirstBurstLength", "262144"},
		setting{group + "/param/InitialR2T", "No"},
	)
}

// export makes the disk LUN 1 of the target and opens the portal last. One that fails may be repeated.
func (t target) export() error {
	err := t.build()
	if err != nil {
		t.demolish()
	}
	return err
}

func (t target) build() error {
	for _, dir := range []string{t.backend(), t.group()} {
		if err := makeDirs(t.root, dir); err != nil {
			return err
		}
	}
	for _, s := range t.settings() {
		if err := s.write(); err != nil {
			return err
		}
	}
	for _, dir := range []string{t.lun(), t.listener()} {
		if err := makeDirs(t.root, dir); err != nil {
			return err
		}
	}
	if err := os.Symlink(t.backend(), t.mapping()); err != nil {
		return fmt.Errorf("map LUN 1: %w", err)
	}
	return setting{t.group() + "/enable", "1"}.write()
}

// demolish takes away what build has made, as far as it came. The kernel takes neither a second device
// for a back end nor a second link, so what stays here is what the next export complains of.
func (t target) demolish() {
	_ = t.withdraw()
	for _, path := range []string{t.mapping(), t.lun(), t.listener(), t.group(), filepath.Dir(t.group()),
		t.backend(), filepath.Dir(t.backend())} {
		_ = os.Remove(path)
	}
}

// withdraw closes the portal and every session.
func (t target) withdraw() error {
	return setting{t.group() + "/enable", "0"}.write()
}

// write sets the attribute. It must exist: configfs makes it with its directory, and a kernel
// that has no such attribute shall say so. No line end follows the value: the kernel would
// make it part of user name and secret. The value of a secret stays out of the error.
func (s setting) write() error {
	f, err := os.OpenFile(s.path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("kernel target: %w", err)
	}
	_, err = f.WriteString(s.value)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("kernel target: %w", err)
	}
	return nil
}

// makeDirs makes dir and its parents below root, each of which makes the kernel create an
// object with its attributes.
func makeDirs(root, dir string) error {
	rel, err := filepath.Rel(root, dir)
	if err != nil {
		return fmt.Errorf("kernel target: %w", err)
	}
	at := root
	for part := range strings.SplitSeq(rel, "/") {
		at = filepath.Join(at, part)
		if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("kernel target: %w", err)
		}
	}
	return nil
}
