package ipmi_test

import (
	"context"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bougou/go-ipmi/pkg/bmc"
	"github.com/bougou/go-ipmi/pkg/clock"
	"github.com/bougou/go-ipmi/pkg/hal/mock"
	"github.com/bougou/go-ipmi/pkg/handlers"
	"github.com/bougou/go-ipmi/pkg/server"
	"github.com/bougou/go-ipmi/pkg/types"
)

// wire is the socket of a simulated BMC. It outlives the BMC, whose sessions end with it.
type wire struct {
	t      *testing.T
	ch     *chassis
	suites []types.CipherSuiteID
	conn   *net.UDPConn
	delay  atomic.Int64 // of each answer, nanoseconds
	dead   atomic.Bool  // answers are lost
	stop   func()
}

// start starts the BMC, again if it was stopped.
func (w *wire) start() {
	b := bmc.New(bmc.DeviceInfo{DeviceID: 32, IPMIVersion: 0x20}, [16]byte{1},
		board{mock.New(), w.ch}, bmc.WithClock(clock.Real), bmc.WithCipherSuites(w.suites))
	user, err := b.Users.Add(2, "admin")
	if err != nil {
		w.t.Fatal(err)
	}
	user.SetPassword([]byte("secret"))
	user.Enabled = true
	user.ChannelAccess[1] = bmc.UserChannelAccess{
		MaxPrivilege: bmc.PrivilegeLevelAdministrator, Enabled: true}
	commands := handlers.NewRegistry()
	handlers.RegisterAllHandlers(commands)
	commands.RegisterFunc(types.CommandGetSystemGUID, w.ch.systemGUID)
	srv := server.NewServer(b, &life{wire: w}, server.WithCipherSuites(w.suites),
		server.WithHandlerRegistry(commands))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = srv.Serve(context.Background()) // ends with Close
	}()
	w.dead.Store(false)
	w.stop = func() {
		srv.Close()
		<-ended
	}
}

func (c *chassis) systemGUID(context.Context, *handlers.HandlerContext, []byte) ([]byte,
	types.CompletionCode, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.guid == nil {
		return nil, types.CodeInvalidCommand, nil
	}
	return c.guid, types.CodeOK, nil
}

// life is the wire as one life of the BMC has it.
type life struct {
	*wire
	closed atomic.Bool
}

func (l *life) ReadFrom(p []byte) (int, net.Addr, error) {
	for !l.closed.Load() {
		if err := l.conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
			return 0, nil, err
		}
		n, addr, err := l.conn.ReadFrom(p)
		if !os.IsTimeout(err) {
			return n, addr, err
		}
	}
	return 0, nil, net.ErrClosed
}

func (l *life) WriteTo(p []byte, addr net.Addr) (int, error) {
	time.Sleep(time.Duration(l.delay.Load()))
	if l.dead.Load() {
		return len(p), nil
	}
	return l.conn.WriteTo(p, addr)
}

func (l *life) Close() error {
	l.closed.Store(true)
	return nil
}
