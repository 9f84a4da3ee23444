package neutron_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"ingot/internal/ingot"
	"ingot/internal/keystone"
	"ingot/internal/neutron"
	"ingot/internal/testkit"
	"ingot/internal/testkit/openstack"
)

func start(t testing.TB) *openstack.Cloud {
	t.Helper()
	testkit.Long(t)
	return openstack.Start(t, openstack.Want{Services: "neutron", Keystone: true})
}

// client is that of the service user; at is "" for the catalog's Neutron.
func client(t testing.TB, c *openstack.Cloud, at string) *neutron.Client {
	t.Helper()
	s, err := keystone.NewSession(keystone.Options{AuthURL: c.Keystone, Username: "ironic",
		UserDomain: "Default", Password: ingot.Secret(c.Password), Project: "service",
		ProjectDomain: "Default"})
	if err != nil {
		t.Fatal(err)
	}
	return neutron.New(s, at, 0)
}

func show(t testing.TB, n *neutron.Client, id string) *neutron.Port {
	t.Helper()
	p, err := n.Port(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestANetworkIsFoundByNameOrUUID(t *testing.T) {
	t.Parallel()
	c := start(t)
	n := client(t, c, "")
	id := c.Network(t, "one of a kind", "")
	twin, other := c.Network(t, "twins", ""), c.Network(t, "twins", "")
	like := ingot.NewUUID() // a name that could be an id
	named := c.Network(t, like, "")
	for ref, want := range map[string]string{id: id, strings.ToUpper(id): id, "one of a kind": id, twin: twin,
		like: named} {
		if got, err := n.Network(t.Context(), ref); err != nil || got.ID != want {
			t.Errorf("%s: %+v, %v", ref, got, err)
		}
	}
	for ref, want := range map[string]string{"": "no network is named", "nobody's": "no network with the name",
		ingot.NewUUID(): "no network with the name", "twins": other} {
		if _, err := n.Network(t.Context(), ref); ingot.KindOf(err) != ingot.Invalid ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v (%s)", ref, err, ingot.KindOf(err))
		}
	}
}

func TestAPhysicalNetworkIsShown(t *testing.T) {
	t.Parallel()
	c := start(t)
	rack := "rack-" + ingot.NewUUID()[:8]
	id := c.Network(t, t.Name(), rack)
	got, err := client(t, c, "").Network(t.Context(), id)
	if err != nil || len(got.Physical) != 1 || got.Physical[0] != rack {
		t.Errorf("%+v, %v", got, err)
	}
}

// Whatever is repeated after an answer was lost, there is one port, and it is as it shall be.
func TestAPortOfAMachineIsMadeOnce(t *testing.T) {
	t.Parallel()
	c := start(t)
	net := c.Network(t, "provisioning", "", "10.1.0.0/24")
	front := openstack.NewFront(t, c.Neutron)
	n := client(t, c, front.URL)
	spec := neutron.Spec{Network: net, Device: ingot.NewUUID(), Binding: neutron.Binding{
		Host: ingot.NewUUID(), MAC: openstack.MAC(), Profile: ingot.Object{"local_link_information": []any{
			ingot.Object{"switch_id": "00:01", "port_id": "Gi0/1"}}}}}
	check := func(what string, p *neutron.Port, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		found, err := n.Find(t.Context(), net, spec.Binding.MAC)
		if err != nil || len(found) != 1 || found[0].ID != p.ID {
			t.Fatalf("%s: %d ports, %v", what, len(found), err)
		}
		p = found[0]
		if p.Device != spec.Device || p.Owner != neutron.Owner || p.MAC != spec.Binding.MAC ||
			p.Host != spec.Binding.Host || p.VNICType != "baremetal" || len(p.FixedIPs) != 1 {
			t.Errorf("%s: %+v", what, p)
		}
		if diff := cmp.Diff(spec.Binding.Profile, p.Profile); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	front.Change(func(r *http.Response) error { // made, but nobody is told
		if r.Request.Method == http.MethodPost {
			return io.ErrUnexpectedEOF
		}
		return nil
	})
	if _, err := n.Create(t.Context(), spec); ingot.KindOf(err) != ingot.Unavailable {
		t.Fatal(err)
	}
	front.Change(nil)
	first, err := n.Create(t.Context(), spec)
	check("again after a lost answer", first, err)
	again, err := n.Create(t.Context(), spec)
	check("again", again, err)
	spec.Device, spec.Binding.Host = ingot.NewUUID(), ingot.NewUUID()
	again, err = n.Create(t.Context(), spec)
	check("for the next instance", again, err)

	// Two that look at the same time: the second one finds what the first one has made.
	spec.Binding.MAC = openstack.MAC()
	racing := client(t, c, front.URL)
	front.Watch(func(r *http.Request) {
		if r.Method == http.MethodPost {
			front.Watch(nil)
			if _, err := racing.Create(context.Background(), spec); err != nil {
				t.Error(err)
			}
		}
	})
	again, err = n.Create(t.Context(), spec)
	check("two at once", again, err)

	front.Watch(func(r *http.Request) {
		if r.Method == http.MethodDelete && !r.Close {
			t.Error("a deletion leaves its connection to others")
		}
	})
	for range 2 {
		if err := n.Delete(t.Context(), again.ID); err != nil {
			t.Error(err)
		}
	}
	if _, err := n.Port(t.Context(), again.ID); ingot.KindOf(err) != ingot.NotFound {
		t.Errorf("deleted: %v", err)
	}
}

func TestAPortOfSomebodyElseIsNotTaken(t *testing.T) {
	t.Parallel()
	c := start(t)
	n := client(t, c, "")
	net := c.Network(t, "provisioning", "", "10.1.0.0/24")
	id := c.Port(t, net)
	spec := neutron.Spec{Network: net, Device: ingot.NewUUID(),
		Binding: neutron.Binding{Host: ingot.NewUUID(), MAC: show(t, n, id).MAC}}
	if _, err := n.Create(t.Context(), spec); ingot.KindOf(err) != ingot.Conflict ||
		!strings.Contains(err.Error(), id) {
		t.Errorf("its MAC address is another port's: %v", err)
	}
	spec.Binding.MAC, spec.Groups = openstack.MAC(), []string{ingot.NewUUID()}
	if _, err := n.Create(t.Context(), spec); ingot.KindOf(err) != ingot.NotFound ||
		!strings.Contains(err.Error(), spec.Groups[0]) {
		t.Errorf("no such security group: %v", err)
	}
}

func TestAPortIsBoundAndUnbound(t *testing.T) {
	t.Parallel()
	c := start(t)
	net := c.Network(t, "tenant", "", "10.2.0.0/24")
	front := openstack.NewFront(t, c.Neutron)
	n := client(t, c, front.URL)
	id := c.Port(t, net)
	b := neutron.Binding{Host: ingot.NewUUID(), MAC: openstack.MAC(), Profile: ingot.Object{
		"local_link_information": []any{ingot.Object{"switch_id": "00:01", "port_id": "Gi0/1"}}}}
	for _, what := range []string{"once", "twice"} {
		if err := n.SetMAC(t.Context(), id, b); err != nil || show(t, n, id).MAC != b.MAC {
			t.Errorf("address, %s: %v", what, err)
		}
	}
	for _, what := range []string{"once", "twice"} {
		p, err := n.Bind(t.Context(), id, b)
		if err != nil {
			t.Fatal(err)
		}
		// No driver of this Neutron knows machines.
		if p.Host != b.Host || p.MAC != b.MAC || p.VIFType != neutron.VIFFailed || p.VNICType != "baremetal" ||
			!cmp.Equal(p.Profile, b.Profile) {
			t.Errorf("bound, %s: %+v", what, p)
		}
	}
	other := neutron.Binding{Host: ingot.NewUUID(), MAC: openstack.MAC()}
	if _, err := n.Bind(t.Context(), id, other); ingot.KindOf(err) != ingot.Conflict ||
		!strings.Contains(err.Error(), b.Host) {
		t.Errorf("bound to another: %v", err)
	}
	if err := n.SetMAC(t.Context(), id, other); ingot.KindOf(err) != ingot.Conflict {
		t.Errorf("bound to another: %v", err)
	}
	if err := n.Unbind(t.Context(), id, other); err != nil || show(t, n, id).Host != b.Host {
		t.Errorf("unbound by another: %v", err)
	}
	var free string
	for _, what := range []string{"once", "twice"} {
		err := n.Unbind(t.Context(), id, b)
		p := show(t, n, id)
		if err != nil || p.Host != "" || p.VIFType != neutron.VIFUnbound || len(p.Profile) > 0 ||
			p.MAC == b.MAC || free != "" && p.MAC != free {
			t.Errorf("unbound, %s: %+v, %v", what, p, err)
		}
		free = p.MAC
	}
	if err := n.Delete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := n.Unbind(t.Context(), id, b); err != nil {
		t.Errorf("unbound, deleted: %v", err)
	}
	for _, id := range []string{id, ingot.NewUUID(), "../networks/" + net} {
		if _, err := n.Bind(t.Context(), id, b); ingot.KindOf(err) != ingot.NotFound {
			t.Errorf("bound, deleted: %v", err)
		}
	}
}

// A port that Neutron has really bound gives up its address only when it is unbound. Here a driver is
// played by the one who changes answers: this Neutron has none.
func TestABoundPortIsUnboundForAnotherAddress(t *testing.T) {
	t.Parallel()
	c := start(t)
	front := openstack.NewFront(t, c.Neutron)
	n := client(t, c, front.URL)
	id := c.Port(t, c.Network(t, "tenant", "", "10.2.0.0/24"))
	b := neutron.Binding{Host: ingot.NewUUID(), MAC: openstack.MAC()}
	front.Change(func(r *http.Response) error {
		body, err := io.ReadAll(r.Body)
		text := strings.ReplaceAll(string(body), `"binding_failed"`, `"other"`)
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
		r.Header.Set("Content-Length", fmt.Sprint(len(text)))
		return err
	})
	for range 2 {
		if p, err := n.Bind(t.Context(), id, b); err != nil || p.VIFType != "other" {
			t.Fatalf("%+v, %v", p, err)
		}
	}
	var puts atomic.Int64
	front.Watch(func(r *http.Request) {
		if r.Method == http.MethodPut {
			puts.Add(1)
		}
	})
	if _, err := n.Bind(t.Context(), id, b); err != nil || puts.Load() > 0 {
		t.Errorf("bound as it is: %d changes, %v", puts.Load(), err)
	}
	b.MAC = openstack.MAC()
	if p, err := n.Bind(t.Context(), id, b); err != nil || p.MAC != b.MAC || puts.Load() != 2 {
		t.Errorf("%d changes, %+v, %v", puts.Load(), p, err)
	}
	b.MAC = openstack.MAC()
	if err := n.SetMAC(t.Context(), id, b); err != nil || show(t, n, id).MAC != b.MAC || puts.Load() != 4 {
		t.Errorf("%d changes, %v", puts.Load(), err)
	}
}

func TestOnlyTheWishedOptionsRemain(t *testing.T) {
	t.Parallel()
	c := start(t)
	front := openstack.NewFront(t, c.Neutron)
	n := client(t, c, front.URL)
	id := c.Port(t, c.Network(t, "provisioning", "", "10.1.0.0/24", "fd00:1::/64"))
	ours := []string{"67", "66", "59", "tag:ipxe,67", "tag:!ipxe,67"}
	stranger := neutron.Option{Name: "26", Value: "9000", Version: 4}
	if err := n.SetOptions(t.Context(), show(t, n, id), []string{"26"}, []neutron.Option{stranger}); err != nil {
		t.Fatal(err)
	}
	var puts atomic.Int64
	front.Watch(func(r *http.Request) {
		if r.Method == http.MethodPut {
			puts.Add(1)
		}
	})
	for name, want := range map[string][]neutron.Option{
		"some": {{Name: "66", Value: "10.0.0.1", Version: 4}, {Name: "67", Value: "a.0", Version: 4}},
		"others": {{Name: "67", Value: "b.0", Version: 4},
			{Name: "tag:ipxe,67", Value: "http://h/boot.ipxe?a=1&b=ü", Version: 4}},
		"both versions": {{Name: "67", Value: "c.0", Version: 4}, {Name: "67", Value: "tftp://h/c", Version: 6},
			{Name: "59", Value: "tftp://[fd00::1]/c", Version: 6}},
		"none": nil,
	} {
		wish := append(want, want...) // the same twice is once
		for _, what := range []string{"once", "twice"} {
			before := puts.Load()
			if err := n.SetOptions(t.Context(), show(t, n, id), ours, wish); err != nil {
				t.Fatalf("%s, %s: %v", name, what, err)
			}
			less := func(a, b neutron.Option) bool { return a.Name+a.Value < b.Name+b.Value }
			if diff := cmp.Diff(append(want, stranger), show(t, n, id).Options,
				cmpopts.SortSlices(less)); diff != "" {
				t.Errorf("%s, %s: %s", name, what, diff)
			}
			if what == "twice" && puts.Load() != before {
				t.Errorf("%s: sent again", name)
			}
		}
	}
	before := puts.Load()
	for words, wish := range map[string][]neutron.Option{
		"has two values":      {{Name: "67", Value: "a"}, {Name: "67", Value: "b", Version: 4}},
		"66 has no value":     {{Name: "67", Value: "a"}, {Name: "66"}},
		"that are taken back": {{Name: "42", Value: "10.0.0.1"}},
	} {
		err := n.SetOptions(t.Context(), show(t, n, id), ours, wish)
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", words, err)
		}
	}
	if puts.Load() != before {
		t.Error("a wish that is refused is sent")
	}
}

func TestWhileNeutronIsInTrouble(t *testing.T) {
	t.Parallel()
	c := start(t)
	net := c.Network(t, "tenant", "", "10.2.0.0/24")
	id := c.Port(t, net)
	front := openstack.NewFront(t, c.Neutron)
	n := client(t, c, front.URL)
	p := show(t, n, id)
	b := neutron.Binding{Host: ingot.NewUUID(), MAC: openstack.MAC()}
	all := map[string]func(context.Context) error{
		"network": func(ctx context.Context) error { _, err := n.Network(ctx, net); return err },
		"show":    func(ctx context.Context) error { _, err := n.Port(ctx, id); return err },
		"create": func(ctx context.Context) error {
			_, err := n.Create(ctx, neutron.Spec{Network: net, Binding: b})
			return err
		},
		"delete": func(ctx context.Context) error { return n.Delete(ctx, id) },
		"bind":   func(ctx context.Context) error { _, err := n.Bind(ctx, id, b); return err },
		"unbind": func(ctx context.Context) error { return n.Unbind(ctx, id, b) },
		"mac":    func(ctx context.Context) error { return n.SetMAC(ctx, id, b) },
		"options": func(ctx context.Context) error {
			return n.SetOptions(ctx, p, []string{"67"}, []neutron.Option{{Name: "67", Value: "a"}})
		},
	}
	for name, e := range map[string]struct {
		trouble http.HandlerFunc
		kind    ingot.Kind
		words   string
	}{
		"it hangs up":     {openstack.HangUp, ingot.Unavailable, "see whether Neutron is up"},
		"it answers 503":  {openstack.Status(http.StatusServiceUnavailable), ingot.Unavailable, "503"},
		"it answers 409":  {openstack.Status(http.StatusConflict), ingot.Conflict, "409"},
		"it lets none in": {openstack.Status(http.StatusUnauthorized), ingot.Internal, "401"},
		"it forbids it":   {openstack.Status(http.StatusForbidden), ingot.Forbidden, "role admin"},
	} {
		front.Break(e.trouble)
		for method, call := range all {
			if err := call(t.Context()); ingot.KindOf(err) != e.kind || !strings.Contains(err.Error(), e.words) {
				t.Errorf("%s, %s: %v (%s)", method, name, err, ingot.KindOf(err))
			}
		}
	}
	front.Break(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	s, err := keystone.NewSession(keystone.Options{})
	if err != nil {
		t.Fatal(err)
	}
	slow := neutron.NewOpen(s, front.URL, 100*time.Millisecond)
	if _, err := slow.Port(t.Context(), id); ingot.KindOf(err) != ingot.Unavailable {
		t.Errorf("it is slow: %v", err)
	}
	// A token that is refused once is renewed, in the middle of it too.
	front.Break(nil)
	var refused atomic.Value
	front.Change(func(r *http.Response) error {
		if r.Request.Method != http.MethodPut {
			return nil
		}
		token := r.Request.Header.Get("X-Auth-Token")
		if refused.CompareAndSwap(nil, token); refused.Load() == token {
			r.StatusCode, r.Status = http.StatusUnauthorized, ""
		}
		return nil
	})
	if _, err := n.Bind(t.Context(), id, b); err != nil || refused.Load() == nil {
		t.Errorf("a token that is refused: %v", err)
	}
	front.Change(nil)
	for _, method := range []string{"network", "show", "bind", "options", "mac", "unbind", "create", "delete"} {
		if err := all[method](t.Context()); err != nil {
			t.Errorf("%s, afterwards: %v", method, err)
		}
	}
}

func TestWithoutNeutronItIsSaidWhatToSet(t *testing.T) {
	t.Parallel()
	var n *neutron.Client
	if _, err := n.Network(t.Context(), "x"); ingot.KindOf(err) != ingot.Invalid ||
		!strings.Contains(err.Error(), "[neutron] endpoint_override") {
		t.Error(err)
	}
}
