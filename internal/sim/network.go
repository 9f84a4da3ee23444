package sim

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// bridgeName is the same in every namespace, so that configuration files can name it.
const bridgeName = "br0"

// bridgeMAC is a local address, and no machine's.
const bridgeMAC = "02:00:00:77:00:01"

// Options says where a network keeps its state and which addresses it has. Only Dir is required.
type Options struct {
	// Dir is the state directory; it is made if absent. One process owns it at a time.
	Dir string
	// Name is the name of the network namespace. Default: "ingot-" and eight random hex
	// digits, so that runs do not meet.
	Name string
	// Prefix is the bridge's IPv4 address with its prefix length. Default 10.77.0.1/24.
	Prefix netip.Prefix
	// IPv6 is the bridge's IPv6 address with its prefix length. Default fd77::1/64.
	IPv6 netip.Prefix
	// BMCs is where BMCs listen. Default 127.0.0.1; hosts beside the bridge reach Prefix's address.
	BMCs netip.Addr
	// Log receives changes of state of the machines. Default: nothing is logged.
	Log *slog.Logger
}

// A Network is a network namespace with a bridge that machines are plugged into. Its methods may
// be called concurrently.
type Network struct {
	*Namespace
	opts    Options
	release func() error // gives up the ownership of the state directory

	mu       sync.Mutex // guards the fields below
	machines []*Machine
	hosts    []*Host
	closed   bool
}

// NewNetwork makes the namespace and its bridge. What an earlier owner of the state directory
// left there is removed first; if that owner still lives, the error is [ErrInUse].
//
// The bridge forwards from its first moment (no spanning tree, no forward delay) and its IPv6
// addresses are usable at once (no duplicate address detection): a machine's firmware sends its
// first packets within milliseconds and waits seconds when they are lost.
func NewNetwork(ctx context.Context, opts Options) (*Network, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("network of test machines: a network namespace needs root; " +
			"run as root")
	}
	release, err := own(opts.Dir)
	if err != nil {
		return nil, err
	}
	n := &Network{Namespace: &Namespace{name: opts.Name}, opts: opts, release: release}
	if err := n.build(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// withDefaults fills in what is not set.
func (o Options) withDefaults() (Options, error) {
	if o.Dir == "" {
		return o, errors.New("network of test machines: no state directory given")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return o, fmt.Errorf("state directory %s: %w", o.Dir, err)
	}
	o.Dir = dir
	if o.Name == "" {
		var b [4]byte
		rand.Read(b[:])
		o.Name = "ingot-" + hex.EncodeToString(b[:])
	}
	if !o.Prefix.IsValid() {
		o.Prefix = netip.MustParsePrefix("10.77.0.1/24")
	}
	if !o.BMCs.IsValid() {
		o.BMCs = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if !o.IPv6.IsValid() {
		o.IPv6 = netip.MustParsePrefix("fd77::1/64")
	}
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	return o, nil
}

// build makes what Close takes away.
func (n *Network) build(ctx context.Context) error {
	if err := removeLeftovers(n.opts.Dir); err != nil {
		return err
	}
	if err := n.create(ctx, n.save); err != nil {
		return err
	}
	err := ip(ctx, n.Name(), "link add "+bridgeName+" type bridge stp_state 0 forward_delay 0")
	if err != nil {
		return err
	}
	if err := n.noDuplicateDetection(bridgeName); err != nil {
		return err
	}
	return ip(ctx, n.Name(),
		"addr add "+n.opts.Prefix.String()+" dev "+bridgeName,
		"addr add "+n.opts.IPv6.String()+" dev "+bridgeName+" nodad",
		"link set "+bridgeName+" up",
		// Else its address is the lowest one of its ports, another one with each port, and hosts that
		// have learned the one before reach nobody for many seconds. A bridge without ports that is
		// given one before it is up has no link-local address.
		"link set "+bridgeName+" address "+bridgeMAC)
}

// Bridge is the name of the bridge inside the namespace.
func (n *Network) Bridge() string { return bridgeName }

// Addr is the bridge's IPv4 address: where servers under test listen and machines find them.
func (n *Network) Addr() netip.Addr { return n.opts.Prefix.Addr() }

// Machine is the machine of that name, or nil.
func (n *Network) Machine(name string) *Machine {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range n.machines {
		if m.spec.Name == name {
			return m
		}
	}
	return nil
}

// Close stops the BMCs, cuts the power of the machines, kills every program that still runs
// inside the namespace or on a host, and removes the namespaces and the machines' files. It may be
// called twice.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	var errs []error
	for _, m := range n.machines {
		errs = append(errs, m.close())
	}
	for _, h := range n.hosts {
		errs = append(errs, h.close())
	}
	errs = append(errs, n.close(), removeLeftovers(n.opts.Dir), n.release())
	return errors.Join(errs...)
}

// ip runs commands of iproute2 in a namespace, or outside when none is named.
func ip(ctx context.Context, namespace string, lines ...string) error {
	args := []string{"-batch", "-"}
	if namespace != "" {
		args = []string{"-n", namespace, "-batch", "-"}
	}
	cmd := exec.CommandContext(ctx, "ip", args...)
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil { // it was killed for that
		return context.Cause(ctx)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("run ip: %w; install it with scripts/packages.sh", err)
	}
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(lines, "; "), err,
			strings.TrimSpace(string(out)))
	}
	return nil
}
