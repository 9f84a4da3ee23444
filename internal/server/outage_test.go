package server_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot/internal/config"
	"ingot/internal/ingot"
	"ingot/internal/postgres"
	"ingot/internal/sim/ipxe"
	"ingot/internal/store"
	"ingot/internal/testkit"
)

// waiting is a machine with iPXE that tells when it pauses.
type waiting struct {
	t     *testing.T
	mac   string
	pause func(said []string, asked []string) // since the last one
	said  []string
	asked []string
}

func (w *waiting) Setting(name string) (string, bool) {
	s, ok := map[string]string{"netX/mac": w.mac, "platform": "pcbios"}[name]
	return s, ok
}

func (w *waiting) Fetch(ctx context.Context, url string, _ time.Duration, to io.Writer) error {
	if strings.Contains(url, "/files/") {
		return nil // what the machine boots is not the point
	}
	w.asked = append(w.asked, url)
	text, err := fetched(ctx, url)
	if err == nil {
		_, err = io.WriteString(to, text)
	}
	return err
}

func (w *waiting) Sleep(context.Context, time.Duration) error {
	said, asked := w.said, w.asked
	w.said, w.asked = nil, nil
	w.pause(said, asked)
	return nil
}

func (w *waiting) Echo(line string) { w.said = append(w.said, line) }

// fetched is what is at a URL; iPXE takes nothing but 200.
func fetched(ctx context.Context, url string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	answer, err := testkit.Web.Do(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s: %s", answer.Status, text)
	}
	return string(text), err
}

// PostgreSQL is stopped while a machine that is being deployed asks what to boot: it asks again, all
// servers, and boots the ramdisk when PostgreSQL runs again.
func TestAMachineInDeploymentOutlastsAnOutageOfPostgreSQL(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	p, err := postgres.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	for _, name := range []string{"r1", "r2"} {
		startWith(t, func(c *config.Config) {
			c.Store.URL, c.Conductor.Host, c.Cluster.Listen = p.URL, name, "127.0.0.1:0"
			c.Conductor.HeartbeatInterval = config.Duration(100 * time.Millisecond)
			c.Conductor.HeartbeatTimeout = config.Duration(time.Second)
			c.Conductor.EnabledHardwareTypes = []string{"ipmi"}
		})
	}
	st, err := store.Open(t.Context(), store.Options{URL: p.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	const mac = "52:54:00:77:00:01"
	n := &ingot.Node{UUID: ingot.NewUUID(), Driver: "ipmi", ProvisionState: "wait call-back",
		BootIntent: ingot.BootDeploy, Attempt: &ingot.Attempt{ID: "1", Key: "k",
			Kernel:  ingot.File{SHA256: strings.Repeat("a", 64), Name: "vmlinuz"},
			Ramdisk: ingot.File{SHA256: strings.Repeat("b", 64), Name: "ramdisk"}}}
	if err := st.CreateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	err = st.CreatePort(t.Context(), &ingot.Port{UUID: ingot.NewUUID(), NodeUUID: n.UUID,
		Address: mac, PXEEnabled: true})
	if err != nil {
		t.Fatal(err)
	}
	var chain, boot string
	testkit.Eventually(t, "scripts name both servers", func() bool {
		self, err := st.Conductor(t.Context(), "r1")
		if err != nil {
			t.Fatal(err)
		}
		boot = self.Services[ingot.ServiceBoot]
		chain, err = fetched(t.Context(), boot+"/boot.ipxe")
		return err == nil && strings.Count(chain, "chain --replace") == 2
	})

	p.Down()
	for path, want := range map[string]string{
		"/pxelinux.cfg/" + n.UUID:             "DEFAULT again",
		"/pxelinux.cfg/01-52-54-00-77-00-01":  "DEFAULT again",
		"/pxelinux.cfg/7F000001":              "DEFAULT again",
		"/pxelinux.cfg/default":               "DEFAULT again",
		"/grub/grub.cfg-01-52-54-00-77-00-01": "\nreboot",
		"/grub/grub.cfg":                      "\nreboot",
		"/52:54:00:77:00:01.conf":             "\nreboot",
		"/autoexec.ipxe":                      "asking again",
		"/v1/drivers/ipmi/vendor_passthru/ipxe_config?node_uuid=" + n.UUID: "asking again",
	} {
		text, err := fetched(t.Context(), boot+path)
		if err != nil || !strings.Contains(text, "database") || !strings.Contains(text, want) {
			t.Errorf("%s: %v, no %q in\n%s", path, err, want, text)
		}
	}
	pauses := 0
	m := &waiting{t: t, mac: mac, pause: func(said, asked []string) {
		if pauses++; len(asked) != 1 || !slices.ContainsFunc(said, func(line string) bool {
			return strings.Contains(line, "the database of the servers does not answer")
		}) {
			t.Errorf("it asked %q and is told %q", asked, said)
		}
		if pauses == 3 {
			if err := p.Up(); err != nil {
				t.Fatal(err)
			}
		}
	}}
	end := ipxe.Run(t.Context(), m, chain)
	if end.Verb != ipxe.Boot || !strings.Contains(end.Kernel.Args, "deployment_id="+n.UUID) {
		t.Errorf("it ends with %+v after %d pauses", end, pauses)
	}
}
