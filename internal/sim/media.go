package sim

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"time"

	"ingot/internal/sim/redfish"
)

// drives are the removable drives of a machine with virtual media.
var drives = []BootDevice{CDROM, Floppy}

// mediaArgs are the drives: at a SCSI controller of their own, for which both firmwares and every
// kernel of a deploy ramdisk have a driver. They are empty at first, see insertAll.
func (m *Machine) mediaArgs(order BootOrder) []string {
	if !m.spec.VirtualMedia {
		return nil
	}
	args := []string{"-device", "virtio-scsi-pci,id=media0",
		"-drive", "if=none,id=drive-cdrom,media=cdrom,readonly=on",
		"-device", fmt.Sprintf("scsi-cd,id=%s,bus=media0.0,drive=drive-cdrom,bootindex=%d", CDROM,
			order.removableIndex(CDFirst, cdLastIndex)),
		"-drive", "if=none,id=drive-floppy,readonly=on",
		"-device", fmt.Sprintf("scsi-hd,id=%s,bus=media0.0,drive=drive-floppy,removable=on,bootindex=%d",
			Floppy, order.removableIndex(FloppyFirst, floppyLastIndex))}
	if len(m.media) > 0 {
		args = append(args, "-S") // the firmware looks once
	}
	return args
}

// Insert puts what is at a URL into a drive, CDROM or Floppy, in the place of what is there. The
// machine reads it by ranges, from inside the namespace, whenever its software does; over resets and
// while it is off the medium stays. The error is [redfish.ErrUnreachable] if it cannot be read.
func (m *Machine) Insert(ctx context.Context, drive BootDevice, url string) error {
	if !m.spec.VirtualMedia {
		return fmt.Errorf("insert a medium: machine %s has no drives", m.spec.Name)
	}
	if err := m.net.reach(ctx, url); err != nil {
		return fmt.Errorf("insert into %s: %w: %w", drive, redfish.ErrUnreachable, err)
	}
	m.power.Lock()
	defer m.power.Unlock()
	at, err := m.slot(drive).show(url)
	if err == nil && m.qemu.running() {
		err = m.qemu.insert(ctx, drive, at)
	}
	if err != nil {
		return fmt.Errorf("insert into %s: %w", drive, err)
	}
	m.media[drive] = url
	return nil
}

// slot is what reads the medium of a drive. The caller holds power.
func (m *Machine) slot(drive BootDevice) *slot {
	if m.slots == nil {
		m.slots = map[BootDevice]*slot{}
	}
	s := m.slots[drive]
	if s == nil {
		s = &slot{net: m.net, web: m.net.web(), persists: func() bool { return m.redfish == nil || !m.redfish.Quirks().ReadsOnce }}
		m.slots[drive] = s
	}
	return s
}

// Eject empties a drive, also one that the guest has locked; an empty one is left alone.
func (m *Machine) Eject(ctx context.Context, drive BootDevice) error {
	m.power.Lock()
	defer m.power.Unlock()
	if m.media[drive] == "" {
		return nil
	}
	delete(m.media, drive)
	if !m.qemu.running() {
		return nil
	}
	return m.qemu.monitor.run(ctx, "eject", map[string]any{"id": drive, "force": true})
}

// insertAll fills the drives of a machine that waits for its first instruction, and lets it go. A
// medium that cannot be read any more is missing, as it is in a real drive.
func (m *Machine) insertAll(ctx context.Context, q *qemu) error {
	if len(m.media) == 0 {
		return nil
	}
	for drive, url := range m.media {
		at, err := m.slot(drive).show(url)
		if err == nil {
			err = q.insert(ctx, drive, at)
		}
		if err != nil {
			m.net.opts.Log.Warn("medium is lost", "node", m.spec.Name, "drive", drive, "error", err)
		}
	}
	return q.monitor.run(ctx, "cont", nil)
}

// insert has a process open the URL of a slot as a medium. A read may take as long as that tries.
func (q *qemu) insert(ctx context.Context, drive BootDevice, url string) error {
	file := fmt.Sprintf(`json:{"driver": "raw", "file": {"driver": "http", "url": %q, "timeout": %d}}`, url,
		2*rereads/time.Second)
	return q.monitor.run(ctx, "blockdev-change-medium", map[string]any{
		"id": drive, "filename": file, "format": "raw", "read-only-mode": "read-only", "force": true,
	})
}

// web reads URLs from inside the namespace as a BMC does. Certificates are not checked.
func (n *Network) web() *http.Transport {
	return &http.Transport{
		TLSClientConfig:       &tls.Config{InsecureSkipVerify: true},
		DialContext:           n.Dial,
		ResponseHeaderTimeout: readTimeout,
	}
}

// reach looks whether a medium can be read by ranges, as QEMU does when it opens one.
func (n *Network) reach(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, qmpTimeout)
	defer cancel()
	web := n.web()
	defer web.CloseIdleConnections()
	client := http.Client{Transport: web}
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	if resp.Header.Get("Accept-Ranges") != "bytes" {
		return errors.New("the server has no ranges")
	}
	return nil
}
