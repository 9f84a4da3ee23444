package agent_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ingot/internal/agent"
	rest "ingot/internal/api"
	conductors "ingot/internal/conductor"
	"ingot/internal/disk"
	"ingot/internal/driver"
	"ingot/internal/driver/direct"
	"ingot/internal/driver/fake"
	"ingot/internal/image"
	"ingot/internal/ingot"
	"ingot/internal/rpc"
	"ingot/internal/store"
	"ingot/internal/store/storetest"
	"ingot/internal/testkit"
)

// machine runs an agent for as long as it has power and is to boot the ramdisk. It is the driver of its power.
type machine struct {
	fake.Power
	*testing.T
	api  string
	disk string

	mu   sync.Mutex
	stop context.CancelFunc // guarded by mu; nil: it has no power, or boots its disk
	runs sync.WaitGroup
	said []string // guarded by mu; the consoles of its agents
}

func (m *machine) SetPower(ctx context.Context, t *driver.Task, target ingot.PowerState) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stop != nil {
		m.stop()
		m.stop = nil
	}
	if driver.PowerResult(target) == ingot.PowerOn && t.Node.BootIntent != ingot.BootDisk {
		uuid := t.Node.UUID
		var boot context.Context
		boot, m.stop = context.WithCancel(context.Background())
		m.runs.Go(func() {
			a := &agent.Agent{Params: agent.Params{Node: uuid}, APIs: []string{m.api}, Disk: m.disk,
				Patience: 20 * time.Second, Spool: filepath.Dir(m.disk)}
			if _, err := a.Run(boot); err != nil && boot.Err() == nil {
				m.Error(err)
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			m.said = append(m.said, a.Said()...)
		})
	}
	return m.Power.SetPower(ctx, t, target)
}

// notes are a journal.
type notes struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

func (n *notes) Add(e ingot.Entry) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.text.WriteString(e.Source + " " + e.Text + "\n")
}

// site is a server of ours, all of it that agents meet.
type site struct {
	*testing.T
	store     *store.Store
	conductor *conductors.Conductor
	machine   *machine
	notes     *notes
	images    string // directory of images, which is also served by http
	web       string
}

func newSite(t *testing.T) *site {
	t.Helper()
	st, err := store.Open(t.Context(), storetest.Options(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	s := &site{T: t, store: st, notes: &notes{}, images: t.TempDir()}
	mux := http.NewServeMux()
	web := httptest.NewServer(mux)
	t.Cleanup(web.Close)
	s.web = web.URL
	s.machine = &machine{T: t, api: web.URL, disk: filepath.Join(t.TempDir(), "disk")}
	if err := os.WriteFile(s.machine.disk, bytes.Repeat([]byte{oldByte}, 100*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	d := direct.New(direct.Options{Local: true, URL: web.URL, DefaultBootMode: driver.BIOS,
		Image: image.Options{AllowedPaths: []string{s.images}, SpoolDir: filepath.Join(t.TempDir(), "spool")}})
	s.conductor = conductors.New(conductors.Options{Store: st, Journal: s.notes, Host: "host1", Log: log,
		LocalAgents: true, CheckInterval: 200 * time.Millisecond, GracePeriod: 5 * time.Second,
		CallbackTimeout: time.Minute, Table: &driver.Table{Hardware: []driver.Hardware{fake.Hardware()},
			Power:      map[string]driver.Power{fake.Name: s.machine},
			Management: map[string]driver.Management{fake.Name: fake.Management{}},
			Boot:       map[string]driver.Boot{fake.Name: fake.Boot{}},
			Deploy:     map[string]driver.Deploy{fake.Name: fake.Deploy{}, direct.Name: d}}})
	mux.Handle("/", rest.New(rest.Options{Store: st, Conductor: s.conductor, Log: log}).Machine())
	mux.Handle("GET "+direct.ImagePattern, &direct.Images{Deploy: d, Node: st.Node, Note: s.notes.Add, Log: log})
	mux.Handle("GET /images/", http.StripPrefix("/images/", http.FileServer(http.Dir(s.images))))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.conductor.Run(ctx) }()
	t.Cleanup(func() {
		s.machine.mu.Lock()
		if s.machine.stop != nil {
			s.machine.stop()
		}
		s.machine.mu.Unlock()
		s.machine.runs.Wait()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("journal:\n%sconsole:\n%s", s.notes.text.String(), strings.Join(s.machine.said, "\n"))
		}
	})
	<-s.conductor.Ready()
	return s
}

// deploy deploys a node of the machine and returns it.
func (s *site) deploy(info ingot.Object) *ingot.Node {
	s.Helper()
	no := false
	n, err := s.conductor.CreateNode(s.Context(), &ingot.Node{Name: "n1", Driver: "fake-hardware",
		ProvisionState: "available", AutomatedClean: &no, Interfaces: map[string]string{"deploy": direct.Name},
		InstanceInfo: info})
	if err != nil {
		s.Fatal(err)
	}
	// As the machine of the tests has it.
	if err := s.store.CreatePort(s.Context(), &ingot.Port{UUID: ingot.NewUUID(), NodeID: n.ID, Address: "52:54:00:77:00:09"}); err != nil {
		s.Fatal(err)
	}
	if err := s.conductor.Provision(s.Context(), rpc.ProvisionRequest{Ident: "n1", Event: "deploy"}); err != nil {
		s.Fatal(err)
	}
	testkit.Eventually(s, "the deployment ends", func() bool {
		if n, err = s.store.Node(s.Context(), n.UUID); err != nil {
			s.Fatal(err)
		}
		return n.ProvisionState == "active" || n.ProvisionState == "deploy failed"
	})
	if n.ProvisionState != "active" {
		s.Fatalf("%s: %s", n.ProvisionState, n.LastError)
	}
	return n
}

// put makes an image.
func (s *site) put(data []byte) {
	s.Helper()
	if err := os.WriteFile(filepath.Join(s.images, "image"), data, 0o600); err != nil {
		s.Fatal(err)
	}
}

// Our agent and our server, without anything in the place of either but the machine.
func TestOurServerAndOurAgentDeploy(t *testing.T) {
	t.Parallel()
	raw := newImage(21, 8)
	root := rootImage(t)
	root[510], root[511] = 0x55, 0xAA
	config := ingot.Object{"meta_data": ingot.Object{"hostname": "web1"}}
	for name, c := range map[string]struct {
		image []byte
		web   bool
		info  ingot.Object
	}{
		"raw, from its server":    {raw, true, ingot.Object{"configdrive": config}},
		"raw, from the conductor": {raw, true, ingot.Object{"image_download_source": "local"}},
		"a partition, its own loader": {root, false, ingot.Object{"image_type": "partition", "root_gb": 0.006, "swap_mb": 1,
			"capabilities": "boot_option:local", "configdrive": config}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.put(c.image)
			source := "file://" + filepath.Join(s.images, "image")
			if c.web {
				source = s.web + "/images/image"
			}
			info := ingot.Object{"image_source": source, "image_checksum": digest(c.image)}
			for k, v := range c.info {
				info[k] = v
			}
			n := s.deploy(info)
			all, err := os.ReadFile(s.machine.disk)
			if err != nil {
				t.Fatal(err)
			}
			if (c.info["configdrive"] != nil) != bytes.Contains(all, []byte(`"hostname":"web1"`)) {
				t.Error("config drive")
			}
			if c.info["image_type"] == nil {
				if !bytes.Equal(all[mib:len(raw)], raw[mib:]) || n.DriverInternalInfo["root_uuid_or_disk_id"] != "0x12345678" {
					t.Errorf("the disk is not the image; %v", n.DriverInternalInfo)
				}
				return
			}
			table, err := disk.Parse(all[:disk.HeadSize], int64(len(all)), 512)
			if err != nil || len(table.Partitions) != 3 || n.DriverInternalInfo["root_uuid_or_disk_id"] != rootFS {
				t.Fatalf("%+v, %v, %v", table, err, n.DriverInternalInfo)
			}
			at := table.Partitions[2].Start
			if !bytes.Equal(all[at:at+int64(len(root))], root) || !table.Partitions[2].Active {
				t.Errorf("the root partition is not the image: %+v", table.Partitions)
			}
		})
	}
}
