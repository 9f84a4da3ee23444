//go:build soak

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"ingot/internal/cli"
	"ingot/internal/ingot"
	"ingot/internal/lab"
	"ingot/internal/sim/fleet"
	"ingot/internal/testkit"
)

// audit has the database record each change of a node's row, and who made it: a checker that knows
// nothing of what the conductors think.
const audit = `
CREATE TABLE audit (id BIGSERIAL, node TEXT, before BIGINT, generation BIGINT,
	reserved_before TEXT, reserved TEXT, writer TEXT);
CREATE FUNCTION record_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO audit (node, before, generation, reserved_before, reserved, writer)
	VALUES (NEW.uuid, OLD.generation, NEW.generation, OLD.reservation, NEW.reservation,
		current_setting('application_name'));
	RETURN NEW;
END $$;
CREATE TRIGGER record_change AFTER UPDATE ON nodes FOR EACH ROW EXECUTE FUNCTION record_change()`

// cluster is a lab with three conductors.
type cluster struct {
	*lab.Lab
	t       *testing.T
	db      *pgx.Conn
	machine *http.Client // in the network of the machines
	origin  *origin
}

// origin is where kernel and ramdisk come from.
type origin struct {
	url string

	mu   sync.Mutex
	sent map[string]int // times a file was sent, by address
}

// startCluster makes three conductors, a database, and machines.
func startCluster(t *testing.T, machines int) *cluster {
	t.Helper()
	requirements(t)
	path, err := filepath.Abs(binary)
	if err != nil {
		t.Fatal(err)
	}
	db, err := testkit.StartPostgres()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Stop)
	l, err := lab.Start(t.Context(), lab.Options{
		Dir: buildDir(t, "e2e"), Cache: buildDir(t, "cache"), Binary: path, Progress: testWriter{t},
		Fleet: lab.FleetOptions{Machines: machines}, Conductors: 3, Database: db.URL,
		// What a machine had from a conductor that died in mid-boot it asks for again in its next boot.
		BootRetryTimeout: 20 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, s := range l.Servers {
				dump(t, s.Host, s.Log())
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	c := &cluster{Lab: l, t: t, machine: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return l.Dial(ctx, network, address)
		}, DisableKeepAlives: true}}}
	if c.db, err = pgx.Connect(t.Context(), db.URL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.db.Close(context.Background()) })
	if _, err := c.db.Exec(t.Context(), audit); err != nil {
		t.Fatal(err)
	}
	c.serveOrigin()
	return c
}

// serveOrigin serves the ramdisk to the conductors, and counts.
func (c *cluster) serveOrigin() {
	o := &origin{sent: map[string]int{}}
	rd := c.Files.Ramdisk
	var l net.Listener
	err := c.Namespace.Do(func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(c.Addr().String(), "0"))
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	files := http.FileServer(http.Dir(filepath.Dir(rd.Kernel.Path)))
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		counted := &counter{ResponseWriter: w}
		files.ServeHTTP(counted, r)
		if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil && counted.n > 0 {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.sent[host]++
		}
	})}
	go s.Serve(l)
	c.t.Cleanup(func() { s.Close() })
	o.url = "http://" + l.Addr().String()
	c.origin = o
	c.Fleet.DriverInfo = map[string]any{
		"deploy_kernel":  o.url + "/" + filepath.Base(rd.Kernel.Path),
		"deploy_ramdisk": o.url + "/" + filepath.Base(rd.Ramdisk.Path),
	}
}

// counter counts the bytes of a body.
type counter struct {
	http.ResponseWriter
	n int
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n += n
	return n, err
}

// of is how often the origin has sent a file to a conductor.
func (o *origin) of(s *lab.Server) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	for host, n := range o.sent {
		if strings.HasPrefix(s.Boot(), "http://"+host+":") {
			return n
		}
	}
	return 0
}

// get returns the body of a URL.
func get(ctx context.Context, client *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("X-OpenStack-Ironic-API-Version", "1.82")
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, resp.Status, body)
	}
	return string(body), err
}

// conductors are the conductors that live as one of them sees it, and the digests of their boot
// files.
func (c *cluster) conductors(ctx context.Context, seen *lab.Server) map[string]string {
	c.t.Helper()
	body, err := get(ctx, &http.Client{Transport: seen.Transport()},
		"http://"+lab.APIAddress+"/v1/conductors?detail=true")
	if err != nil {
		c.t.Fatal(err)
	}
	var list struct {
		Conductors []struct {
			Hostname string `json:"hostname"`
			Alive    bool   `json:"alive"`
			BootTree string `json:"boot_tree"`
		} `json:"conductors"`
	}
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		c.t.Fatal(err)
	}
	alive := map[string]string{}
	for _, m := range list.Conductors {
		if m.Alive {
			alive[m.Hostname] = m.BootTree
		}
	}
	return alive
}

// until waits for something that conductors bring about.
func (c *cluster) until(ctx context.Context, what string, done func() bool) {
	c.t.Helper()
	begin := time.Now()
	for !done() {
		select {
		case <-ctx.Done():
			c.t.Fatalf("%s: %v", what, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
	c.t.Logf("%s: waited %.1f s", what, time.Since(begin).Seconds())
}

// at counts the machines that are at one of the stages.
func (c *cluster) at(stages ...fleet.Stage) int {
	n := 0
	for _, e := range c.Fleet.Stages() {
		if slices.Contains(stages, e.Stage) {
			n++
		}
	}
	return n
}

// shares is how many nodes each conductor owns, by its host name.
func (c *cluster) shares(ctx context.Context, seen *lab.Server) map[string]int {
	c.t.Helper()
	client, err := seen.Client()
	if err != nil {
		c.t.Fatal(err)
	}
	shares := map[string]int{}
	if err := client.Nodes(ctx, func(n cli.Node) error { shares[n.Conductor]++; return nil }); err != nil {
		c.t.Fatal(err)
	}
	return shares
}

// script is what a conductor tells a machine to boot.
func (c *cluster) script(ctx context.Context, from *lab.Server, machine int) string {
	c.t.Helper()
	_, mac := c.FleetNode(machine)
	text, err := get(ctx, c.machine,
		from.Boot()+"/v1/drivers/ipmi/vendor_passthru/ipxe_config?port_address="+mac)
	if err != nil {
		c.t.Fatal(err)
	}
	return text
}

// arrived checks machines from first to last: bytes of the disk, state, and a complete journal.
func (c *cluster) arrived(ctx context.Context, first, last int, digest string) {
	c.t.Helper()
	client, err := c.Client()
	if err != nil {
		c.t.Fatal(err)
	}
	stages := c.Fleet.Stages()
	for i := first; i < last; i++ {
		spec, _ := c.FleetNode(i)
		if e := stages[spec.Name]; e.Stage != fleet.Disk || e.SHA256 != digest {
			c.t.Errorf("%s is at %s with the digest %q, want %s", spec.Name, e.Stage, e.SHA256, digest)
		}
		n, err := client.Node(ctx, spec.Name)
		if err != nil {
			c.t.Fatal(err)
		}
		if n.ProvisionState != "active" || n.PowerState != "power on" {
			c.t.Errorf("%s is %s, %s", spec.Name, n.ProvisionState, n.PowerState)
		}
		journal, err := client.Journal(ctx, spec.Name, 0, 0)
		if err != nil {
			c.t.Fatal(err)
		}
		inOrder(c.t, journal, []sign{
			// What several conductors see at the same time may be on record in any order.
			{"state", "available → deploying"}, {"state", "deploying → active"},
		})
		actives := slices.DeleteFunc(journal, func(e ingot.Entry) bool {
			return e.Source != "state" || e.Data["to"] != "active"
		})
		if len(actives) != 1 {
			c.t.Errorf("%s became active %d times", spec.Name, len(actives))
		}
	}
}

// fenced checks what the database has recorded: no generation was written twice, and what was
// reserved was written by who had reserved it and nobody else.
func (c *cluster) fenced(ctx context.Context) {
	c.t.Helper()
	var changes, twice int
	err := c.db.QueryRow(ctx, `SELECT count(*), count(*) - count(DISTINCT (node, before)) FROM audit`).
		Scan(&changes, &twice)
	if err != nil {
		c.t.Fatal(err)
	}
	if changes == 0 || twice > 0 {
		c.t.Errorf("%d changes of nodes, %d of them of a generation that was changed before", changes, twice)
	}
	rows, err := c.db.Query(ctx, `SELECT node || ' generation ' || generation || ', reserved for ' ||
		COALESCE(reserved, 'nobody') || ', by ' || writer FROM audit
		WHERE reserved IS NOT NULL AND reserved <> writer
		OR reserved_before IS NOT NULL AND reserved IS NOT NULL AND reserved_before <> reserved`)
	if err != nil {
		c.t.Fatal(err)
	}
	foreign, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		c.t.Fatal(err)
	}
	for _, f := range foreign {
		c.t.Error("written by who does not own it: " + f)
	}
	c.t.Logf("%d changes of nodes, each by who had reserved the node", changes)
}

// TestS0_2_MachinesArriveWhileConductorsDie has three conductors and one database. One is killed
// and one is stopped for longer than its lease while machines boot; later the first comes back with
// nothing on its disk.
func TestS0_2_MachinesArriveWhileConductorsDie(t *testing.T) {
	const machines, later = 60, 12
	c := startCluster(t, machines+later)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	info, digest := smallImage(t, filepath.Dir(c.Files.Image.RawPath))
	begin := time.Now()
	if err := c.EnrollFleet(ctx, 0, machines+later); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d machines enrolled in %.1f s", machines+later, time.Since(begin).Seconds())

	shares := c.shares(ctx, c.Servers[0])
	t.Log("nodes at each:", shares)
	servers := slices.Clone(c.Servers)
	slices.SortFunc(servers, func(a, b *lab.Server) int { return shares[b.Host] - shares[a.Host] })
	killed, paused, left := servers[0], servers[1], servers[2]
	begin = time.Now()
	if err := c.Through(paused).RequestFleet(ctx, 0, machines, info); err != nil {
		t.Fatal(err)
	}
	c.until(ctx, "machines execute their scripts", func() bool {
		return c.at(fleet.Script, fleet.Ramdisk, fleet.Exported) >= 10
	})
	if err := killed.Kill(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s killed after %.1f s", killed.Host, time.Since(begin).Seconds())
	c.until(ctx, "disks are written", func() bool { return c.at(fleet.Written, fleet.Disk) >= 10 })
	if err := paused.Pause(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s stopped after %.1f s", paused.Host, time.Since(begin).Seconds())
	c.until(ctx, "the lease of the stopped one ends", func() bool {
		return slices.Equal(slices.Collect(maps.Keys(c.conductors(ctx, left))), []string{left.Host})
	})
	if err := paused.Continue(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s goes on after %.1f s", paused.Host, time.Since(begin).Seconds())
	survivor := *c
	survivor.Lab = c.Through(left)
	t.Logf("%d machines found nothing to boot; their firmware begins anew", c.at(fleet.Stuck))
	for name, e := range c.Fleet.Stages() {
		if e.Stage == fleet.Stuck || e.Stage == fleet.Off {
			t.Logf("%s is %s: %s", name, e.Stage, e.Text)
		}
	}
	if err := survivor.WaitFleet(ctx, 0, machines, "active"); err != nil {
		stages := c.Fleet.Stages()
		for _, name := range slices.Sorted(maps.Keys(stages)) {
			e := stages[name]
			if e.Stage != fleet.Disk {
				t.Logf("%s is at %s: %s", name, e.Stage, e.Text)
			}
		}
		t.Fatal(err)
	}
	if err := c.Fleet.Wait(ctx, fleet.Disk, machines); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d machines deployed in %.1f s", machines, time.Since(begin).Seconds())
	survivor.arrived(ctx, 0, machines, digest)

	t.Run("S0_3_who_joins_later_has_all_it_needs", func(t *testing.T) {
		r := survivor
		r.t = t
		r.rejoin(ctx, killed, machines, machines+later, info)
		r.arrived(ctx, machines, machines+later, digest)
	})
	survivor.fenced(ctx)
}

// rejoin starts a killed conductor without its boot files, and deploys more machines.
func (c *cluster) rejoin(ctx context.Context, s *lab.Server, first, last int, info map[string]string) {
	c.t.Helper()
	if err := s.Forget(); err != nil {
		c.t.Fatal(err)
	}
	before := c.origin.of(s)
	begin := time.Now()
	if err := s.Start(ctx); err != nil {
		c.t.Fatal(err)
	}
	c.t.Logf("%s started in %.1f s", s.Host, time.Since(begin).Seconds())
	c.until(ctx, "all three live and hold the same boot files", func() bool {
		alive := c.conductors(ctx, c.Server)
		return len(alive) == 3 && len(slices.Compact(slices.Sorted(maps.Values(alive)))) == 1
	})
	if shares := c.shares(ctx, c.Server); shares[s.Host] == 0 {
		c.t.Errorf("%s has no node: %v", s.Host, shares)
	}
	begin = time.Now()
	if err := c.RequestFleet(ctx, first, last, info); err != nil {
		c.t.Fatal(err)
	}
	file := regexp.MustCompile(`http://[^/ ]+(/files/[^ ]+)`)
	var script string
	c.until(ctx, "the script of a machine names its kernel", func() bool {
		script = c.script(ctx, s, first)
		return file.MatchString(script)
	})
	for _, each := range c.Servers {
		if !strings.Contains(script, each.Boot()+"/files/") {
			c.t.Errorf("the script does not name %s:\n%s", each.Boot(), script)
		}
	}
	for _, match := range file.FindAllStringSubmatch(script, -1) {
		if _, err := get(ctx, c.machine, s.Boot()+match[1]); err != nil {
			c.t.Error(err)
		}
	}
	if n := c.origin.of(s) - before; n > 0 {
		c.t.Errorf("%s fetched %d boot files from the origin", s.Host, n)
	}
	if err := c.WaitFleet(ctx, first, last, "active"); err != nil {
		c.t.Fatal(err)
	}
	if err := c.Fleet.Wait(ctx, fleet.Disk, last); err != nil {
		c.t.Fatal(err)
	}
	c.t.Logf("%d machines more deployed in %.1f s", last-first, time.Since(begin).Seconds())
}
