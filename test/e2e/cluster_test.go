package e2e

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/baremetal/v1/nodes"
	"github.com/jackc/pgx/v5"

	"ingot/internal/cli"
	"ingot/internal/ingot"
	"ingot/internal/lab"
	"ingot/internal/postgres"
	"ingot/internal/sim"
	"ingot/internal/sim/redfish"
)

// trio is three servers with a database, and a machine with real firmware.
type trio struct {
	t        *testing.T
	l        *lab.Lab
	m        *sim.Machine
	database string
	dead     *lab.Server
}

// TestS0_2_AMachineArrivesThoughItsServerDies kills the server that a machine with UEFI firmware and
// without iPXE in its network card is served by, while it is. It prints what that costs.
func TestS0_2_AMachineArrivesThoughItsServerDies(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		// at is when the server is killed, next the first sign that another one has taken over.
		at, next sign
		who      func(s *trio, e ingot.Entry) *lab.Server
		// slow makes the cables of the servers lose packets until then, so that it takes long.
		slow int
	}{
		{"which sends its boot program", sign{"dhcp", "snponly.efi"},
			sign{"script", "asked for its boot script: deploy"}, (*trio).life, 10},
		{"which sends its kernel", sign{"script", "asked for its boot script: deploy"},
			sign{"agent", "the ramdisk exports its disk"}, (*trio).firstInScript, 0},
		{"which writes its image", sign{"iscsi", "connected to the machine's disk"},
			sign{"iscsi", "connected to the machine's disk"}, (*trio).worker, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			requirements(t)
			p, err := postgres.Start()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(p.Stop)
			s := &trio{t: t, database: p.URL}
			s.l, s.m = startWith(t, sim.MachineSpec{Firmware: sim.UEFI, NICROM: sim.NoROM}, lab.Options{
				Cache: buildDir(t, "cache"), Conductors: 3, Database: p.URL})
			if err := s.l.Enroll(t.Context(), s.m, func(string, string) {}); err != nil {
				t.Fatal(err)
			}
			for _, server := range s.l.Servers {
				if err := server.Lose(t.Context(), c.slow); err != nil {
					t.Fatal(err)
				}
			}
			begin := time.Now()
			s.ask(func(api *cli.Client) error {
				return api.Provision(t.Context(), s.m.Spec().Name, "active")
			})
			e := s.sees(0, c.at)
			s.dead = c.who(s, e)
			if c.slow > 0 {
				time.Sleep(time.Second) // so that a part of the file is there; how much does not matter
			}
			killed := time.Now()
			if err := s.dead.Kill(); err != nil {
				t.Fatal(err)
			}
			for _, server := range s.l.Servers {
				if err := server.Lose(t.Context(), 0); err != nil {
					t.Fatal(err)
				}
			}
			last := s.last()
			next := s.sees(last, c.next)
			t.Logf("%s was killed %.1f s after the request; %.1f s later: %s", s.dead.Host,
				killed.Sub(begin).Seconds(), next.Time.Sub(killed).Seconds(), next.Text)
			s.arrives(begin)
		})
	}
}

// ask calls the API of one server after the other until one does what is asked.
func (s *trio) ask(fn func(api *cli.Client) error) {
	s.t.Helper()
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		for _, server := range s.l.Servers {
			if server == s.dead {
				continue
			}
			var api *cli.Client
			if api, err = server.Client(); err != nil {
				s.t.Fatal(err)
			}
			if err = fn(api); err == nil {
				return
			}
		}
	}
	s.t.Fatal(err)
}

func (s *trio) journal(after int64) (entries []ingot.Entry) {
	s.t.Helper()
	s.ask(func(api *cli.Client) (err error) {
		entries, err = api.Journal(s.t.Context(), s.m.Spec().Name, after, 0)
		return err
	})
	return entries
}

func (s *trio) last() int64 {
	s.t.Helper()
	all := s.journal(0)
	return all[len(all)-1].Seq
}

// sees waits for a sign after an entry.
func (s *trio) sees(after int64, want sign) ingot.Entry {
	s.t.Helper()
	var all []ingot.Entry
	for end := time.Now().Add(4 * time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		all = s.journal(after)
		i := slices.IndexFunc(all, func(e ingot.Entry) bool {
			return e.Source == want.source && strings.Contains(e.Text, want.text)
		})
		if i >= 0 {
			return all[i]
		}
	}
	s.t.Fatalf("no %s %q:\n%s", want.source, want.text, texts(s.journal(0)))
	return ingot.Entry{}
}

func texts(journal []ingot.Entry) string {
	var b strings.Builder
	for _, e := range journal {
		fmt.Fprintf(&b, "%s %s: %s\n", e.Time.Format("05.000"), e.Source, e.Text)
	}
	return b.String()
}

// life is the server whose life is in the data of an entry.
func (s *trio) life(e ingot.Entry) *lab.Server {
	s.t.Helper()
	db, err := pgx.Connect(s.t.Context(), s.database)
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close(s.t.Context())
	var host string
	err = db.QueryRow(s.t.Context(), `SELECT hostname FROM conductors WHERE incarnation = $1`,
		e.Data[ingot.DataServer]).Scan(&host)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.server(host)
}

// worker is the server whose conductor works on the node.
func (s *trio) worker(ingot.Entry) (server *lab.Server) {
	s.t.Helper()
	s.ask(func(api *cli.Client) error {
		n, err := api.Node(s.t.Context(), s.m.Spec().Name)
		if err == nil && n.Reservation == "" {
			err = fmt.Errorf("nobody works on the node, which is %s", n.ProvisionState)
		}
		if err == nil {
			server = s.server(n.Reservation)
		}
		return err
	})
	return server
}

func (s *trio) server(host string) *lab.Server {
	s.t.Helper()
	i := slices.IndexFunc(s.l.Servers, func(l *lab.Server) bool { return l.Host == host })
	if i < 0 {
		s.t.Fatalf("no server is called %q", host)
	}
	return s.l.Servers[i]
}

var kernelURL = regexp.MustCompile(`(?m)^kernel .*?(http://[^/]+)/`)

// firstInScript is the server that the machine's script names first for its kernel.
func (s *trio) firstInScript(ingot.Entry) *lab.Server {
	s.t.Helper()
	client := http.Client{Transport: s.l.Servers[0].Transport()}
	resp, err := client.Get(s.l.Servers[0].Boot() +
		"/v1/drivers/ipmi/vendor_passthru/ipxe_config?port_address=" + s.m.Spec().MAC)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	script, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	url := kernelURL.FindSubmatch(script)
	if url == nil {
		s.t.Fatalf("no kernel in the script:\n%s", script)
	}
	i := slices.IndexFunc(s.l.Servers, func(l *lab.Server) bool { return l.Boot() == string(url[1]) })
	if i < 0 {
		s.t.Fatalf("nobody is at %s", url[1])
	}
	return s.l.Servers[i]
}

// arrives waits until the node is active and the machine runs every byte of the image.
func (s *trio) arrives(begin time.Time) {
	s.t.Helper()
	var n *cli.Node
	for end := time.Now().Add(4 * time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		s.ask(func(api *cli.Client) (err error) {
			n, err = api.Node(s.t.Context(), s.m.Spec().Name)
			return err
		})
		if n.ProvisionState == "active" && n.Reservation == "" {
			break
		}
	}
	if n.ProvisionState != "active" || n.PowerState != "power on" {
		s.t.Fatalf("the node is %s, %s: %s\n%s", n.ProvisionState, n.PowerState, n.LastError,
			texts(s.journal(0)))
	}
	if err := s.l.Booted(s.t.Context(), s.m); err != nil {
		s.t.Fatal(err)
	}
	s.t.Logf("deployed and booted after %.1f s", time.Since(begin).Seconds())
	sameBytes(s.t, s.l, s.m)
}

// The server from which a BMC reads dies while the machine boots from the medium: another one has it inserted
// again, and starts the machine again if it has to.
func TestS3_5_AMachineArrivesThoughTheServerOfItsMediumDies(t *testing.T) {
	t.Parallel()
	requirements(t)
	p, err := postgres.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	s := &trio{t: t, database: p.URL}
	s.l, s.m = startWith(t, sim.MachineSpec{Firmware: sim.UEFI, NICROM: sim.NoROM, BMC: sim.Redfish,
		VirtualMedia: true}, lab.Options{Cache: buildDir(t, "cache"), Conductors: 3, Database: p.URL})
	s.enrollMedia()
	for _, server := range s.l.Servers {
		if err := server.Lose(t.Context(), 10); err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now()
	s.ask(func(api *cli.Client) error { return api.Provision(t.Context(), s.m.Spec().Name, "active") })
	s.dead = s.life(s.sees(0, sign{"bmc", "the medium of the deploy ramdisk is read"}))
	time.Sleep(time.Second) // so that a part of it was read; how much does not matter
	if err := s.dead.Kill(); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	for _, server := range s.l.Servers {
		if err := server.Lose(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	e := s.sees(s.last(), sign{"agent", "the ramdisk exports its disk"})
	t.Logf("%s was killed %.1f s after the request; %.1f s later: %s\n%s", s.dead.Host, killed.Sub(begin).Seconds(),
		e.Time.Sub(killed).Seconds(), e.Text, texts(s.journal(0)))
	s.arrives(begin)
}

// The server that has the service address dies while the BMC reads there: another one has the address within
// seconds, the BMC reads on, and the machine is not started again.
func TestABootByVirtualMediaGoesOnThoughItsServerDies(t *testing.T) {
	t.Parallel()
	requirements(t)
	p, err := postgres.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	s := &trio{t: t, database: p.URL}
	s.l, s.m = startWith(t, sim.MachineSpec{Firmware: sim.UEFI, NICROM: sim.NoROM, BMC: sim.Redfish,
		VirtualMedia: true}, lab.Options{Cache: buildDir(t, "cache"), Conductors: 2, Database: p.URL,
		ServiceAddress: true})
	s.enrollMedia()
	s.lose(10) // so that it takes long
	begin := time.Now()
	s.ask(func(api *cli.Client) error { return api.Provision(t.Context(), s.m.Spec().Name, "active") })
	first := s.sees(0, sign{"bmc", "the medium of the deploy ramdisk is read"})
	s.dead = s.life(first)
	time.Sleep(time.Second) // so that a part of it was read; how much does not matter
	if err := s.dead.Kill(); err != nil {
		t.Fatal(err)
	}
	killed, at := time.Now(), s.m.Redfish().Inserted(redfish.VirtualCD)
	s.lose(0)
	e := s.sees(first.Seq, sign{"bmc", "the medium of the deploy ramdisk is read"})
	t.Logf("%s was killed %.1f s after the request; read on at another one %.1f s later", s.dead.Host,
		killed.Sub(begin).Seconds(), e.Time.Sub(killed).Seconds())
	s.sees(first.Seq, sign{"agent", "the ramdisk exports its disk"})
	if now := s.m.Redfish().Inserted(redfish.VirtualCD); now != at || !strings.HasPrefix(at, "http://10.77.0.5:") {
		t.Errorf("in the drive is %s, before %s", now, at)
	}
	if resets := s.m.Redfish().Resets(); !slices.Equal(resets, []redfish.ResetType{redfish.PowerOn}) {
		t.Errorf("until the ramdisk called the machine was switched %v\n%s", resets, texts(s.journal(0)))
	}
	s.arrives(begin)
}

// lose makes the cables of the servers lose so many of 100 packets.
func (s *trio) lose(percent int) {
	s.t.Helper()
	for _, server := range s.l.Servers {
		if err := server.Lose(s.t.Context(), percent); err != nil {
			s.t.Fatal(err)
		}
	}
}

// enrollMedia makes a node that boots by virtual media available.
func (s *trio) enrollMedia() {
	s.t.Helper()
	spec, image := s.m.Spec(), s.l.Files.Image
	s.ask(func(api *cli.Client) error {
		_, err := api.CreateNode(s.t.Context(), nodes.CreateOpts{Name: spec.Name, Driver: "redfish",
			BootInterface: "redfish-virtual-media", DriverInfo: map[string]any{"redfish_address": s.m.Redfish().URL(),
				"redfish_username": spec.User, "redfish_password": spec.Password},
			Properties: map[string]any{"capabilities": "boot_mode:uefi"}}, spec.MAC)
		if err == nil {
			_, err = api.SetInstance(s.t.Context(), spec.Name, map[string]any{"image_source": "file://" + image.QCOW2Path,
				"image_os_hash_algo": "sha256", "image_os_hash_value": image.QCOW2SHA256})
		}
		return err
	})
	for _, to := range [][2]string{{"manage", "manageable"}, {"provide", "available"}} {
		s.ask(func(api *cli.Client) error { return api.Provision(s.t.Context(), spec.Name, to[0]) })
		for state, end := "", time.Now().Add(time.Minute); state != to[1]; time.Sleep(100 * time.Millisecond) {
			if time.Now().After(end) {
				s.t.Fatalf("the node is %s, not %s", state, to[1])
			}
			s.ask(func(api *cli.Client) error {
				n, err := api.Node(s.t.Context(), spec.Name)
				if err == nil {
					state = n.ProvisionState
				}
				return err
			})
		}
	}
}
