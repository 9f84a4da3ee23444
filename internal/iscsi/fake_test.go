package iscsi_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"ingot/internal/iscsi"
)

// Opcodes and values of RFC 7143 and SPC-4, written down here a second time on purpose: the fake
// target shares nothing with the code under test.
const (
	nopOut         = 0x00
	scsiCommand    = 0x01
	dataOut        = 0x05
	logoutRequest  = 0x06
	nopIn          = 0x20
	scsiResponse   = 0x21
	loginResponse  = 0x23
	dataIn         = 0x25
	logoutResponse = 0x26
	r2t            = 0x31
	asyncMessage   = 0x32
	rejectPDU      = 0x3f

	final       = 0x80
	reservedTag = 0xffffffff

	good  = 0x00
	check = 0x02
	busy  = 0x08

	testUnitReady = 0x00
	inquiry       = 0x12
	unmap         = 0x42
	reserveOut    = 0x5f
	write16       = 0x8a
	writeSame16   = 0x93
	readCapacity  = 0x9e

	fakeBlocks = 1 << 20
)

// pdu is one PDU on the fake target's side.
type pdu struct {
	h    [48]byte
	data []byte
}

func (p *pdu) u32(at int) uint32        { return binary.BigEndian.Uint32(p.h[at:]) }
func (p *pdu) set(at int, value uint32) { binary.BigEndian.PutUint32(p.h[at:], value) }
func (p *pdu) opcode() byte             { return p.h[0] & 0x3f }
func (p *pdu) cdb() []byte              { return p.h[32:48] }

// fake is a target whose behaviour a test scripts PDU by PDU. Its methods run on the goroutine of
// the script; they report to the test and end the script by a panic with errEnd.
type fake struct {
	t      *testing.T
	conn   net.Conn
	statSN uint32
	cmdSN  uint32 // next one expected
	window uint32 // commands admitted beyond cmdSN
	ready  int    // how often TEST UNIT READY is answered with not ready first
	text   string // operational text of the login, keys separated by spaces

	pages map[byte][]byte // vital product data without headers; nil if there is none
	freed bool            // freed blocks read as zeros
}

// thin makes the disk offer UNMAP of at most so many blocks, and nothing else to free blocks by.
func (f *fake) thin(blocks uint32) {
	limits := make([]byte, 60)
	binary.BigEndian.PutUint32(limits[16:], blocks)
	f.pages = map[byte][]byte{0: {0, 0xb0, 0xb2}, 0xb0: limits, 0xb2: {0, 0x80, 0, 0}}
	f.freed = true
}

// errEnd ends a script when the initiator has gone.
var errEnd = errors.New("initiator has gone")

// serve runs script for each connection to a fake target until the test ends, and returns how to
// reach it. The script starts before the login.
func serve(t *testing.T, script func(*fake)) iscsi.Config {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			run(&fake{t: t, conn: conn, statSN: 100, window: 32}, script)
			stop()
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		cancel()
		_ = listener.Close()
		<-done
	})
	return iscsi.Config{Address: listener.Addr().String(), Target: "iqn.2026-01.x:fake",
		DialTimeout: 20 * time.Second, CommandTimeout: 20 * time.Second, ReconnectTimeout: -1}
}

func run(f *fake, script func(*fake)) {
	defer func() {
		if r := recover(); r != nil && r != errEnd {
			panic(r)
		}
	}()
	script(f)
}

// read takes the next PDU off the wire.
func (f *fake) read() *pdu {
	p := &pdu{}
	if _, err := io.ReadFull(f.conn, p.h[:]); err != nil {
		panic(errEnd)
	}
	n := int(p.u32(4) & 0xffffff)
	p.data = make([]byte, n+(-n&3))
	if _, err := io.ReadFull(f.conn, p.data); err != nil {
		panic(errEnd)
	}
	p.data = p.data[:n]
	if immediate := p.h[0]&0x40 != 0; !immediate && p.opcode() == scsiCommand {
		if p.u32(24) != f.cmdSN {
			f.t.Errorf("CmdSN %d, expected %d", p.u32(24), f.cmdSN)
		}
		f.cmdSN++
	}
	return p
}

// send writes a PDU with the sequence numbers filled in.
func (f *fake) send(p *pdu) {
	p.set(24, f.statSN)
	p.set(28, f.cmdSN)
	p.set(32, f.cmdSN-1+f.window)
	p.set(4, uint32(len(p.data)))
	message := append(p.h[:], p.data...)
	message = append(message, make([]byte, -len(p.data)&3)...)
	if _, err := f.conn.Write(message); err != nil {
		panic(errEnd)
	}
}

// login goes through both stages, and returns the initiator's ISID.
func (f *fake) login() []byte {
	p := f.read()
	f.cmdSN = p.u32(24)
	f.loginReply(p, "AuthMethod=None TargetPortalGroupTag=1", final|1)
	f.loginReply(f.read(), f.text, final|1<<2|3)
	return p.h[8:14]
}

func (f *fake) loginReply(to *pdu, text string, flags byte) {
	reply := &pdu{}
	reply.h[0], reply.h[1] = loginResponse, flags
	copy(reply.h[8:20], to.h[8:20])
	for _, key := range strings.Fields(text) {
		reply.data = append(append(reply.data, key...), 0)
	}
	f.send(reply)
	f.statSN++
}

// command answers what Dial asks, and returns the first other PDU.
func (f *fake) command() *pdu {
	for {
		p := f.read()
		if p.opcode() == nopOut && p.u32(16) != reservedTag {
			f.pong(p)
			continue
		}
		if p.opcode() != scsiCommand {
			return p
		}
		switch cdb := p.cdb(); cdb[0] {
		case testUnitReady:
			if f.ready > 0 {
				f.ready--
				f.sense(p, 0x2, 0x04, 0x01)
			} else {
				f.respond(p, good, nil)
			}
		case inquiry:
			if page := f.pages[cdb[2]]; cdb[1] == 1 && page != nil {
				f.dataIn(p, append([]byte{0, cdb[2], 0, byte(len(page))}, page...), true)
				continue
			}
			if cdb[1] == 1 {
				f.sense(p, 0x5, 0x24, 0)
				continue
			}
			data := make([]byte, 36)
			copy(data[8:], "FAKE    WIRE LEVEL      1.0 ")
			f.dataIn(p, data, true)
		case reserveOut:
			f.sense(p, 0x5, 0x20, 0) // has no reservations
		case readCapacity:
			if cdb[1] != 0x10 {
				return p
			}
			data := make([]byte, 32)
			if f.freed {
				data[14] = 0x40
			}
			binary.BigEndian.PutUint64(data, fakeBlocks-1)
			binary.BigEndian.PutUint32(data[8:], 512)
			f.dataIn(p, data, true)
		default:
			return p
		}
	}
}

// respond ends a command.
func (f *fake) respond(to *pdu, status byte, data []byte) {
	p := &pdu{data: data}
	p.h[0], p.h[1], p.h[3] = scsiResponse, final, status
	copy(p.h[16:20], to.h[16:20])
	f.send(p)
	f.statSN++
}

// sense ends a command with CHECK CONDITION and sense data of fixed format.
func (f *fake) sense(to *pdu, key, asc, ascq byte) {
	data := [20]byte{1: 18, 2: 0x70, 4: key, 9: 10, 14: asc, 15: ascq}
	f.respond(to, check, data[:])
}

// dataIn sends data, with GOOD status in the same PDU if asked.
func (f *fake) dataIn(to *pdu, data []byte, status bool) {
	p := &pdu{data: data}
	p.h[0], p.h[1] = dataIn, final
	if status {
		p.h[1] |= 1
	}
	copy(p.h[16:20], to.h[16:20])
	p.set(20, reservedTag)
	f.send(p)
	if status {
		f.statSN++
	}
}

// ask sends an R2T.
func (f *fake) ask(to *pdu, ttt, offset, length uint32) {
	p := &pdu{}
	p.h[0], p.h[1] = r2t, final
	copy(p.h[8:20], to.h[8:20])
	p.set(20, ttt)
	p.set(40, offset)
	p.set(44, length)
	f.send(p)
}

// ping sends a NOP-In.
func (f *fake) ping(ttt uint32) {
	p := &pdu{data: []byte("ping")}
	p.h[0], p.h[1] = nopIn, final
	p.set(16, reservedTag)
	p.set(20, ttt)
	f.send(p)
}

// pong answers the initiator's NOP-Out.
func (f *fake) pong(to *pdu) {
	if to.opcode() != nopOut || to.h[0]&0x40 == 0 || to.u32(16) == reservedTag ||
		to.u32(20) != reservedTag {
		f.t.Errorf("not a ping: %x", to.h)
	}
	p := &pdu{}
	p.h[0], p.h[1] = nopIn, final
	copy(p.h[8:20], to.h[8:20])
	p.set(20, reservedTag)
	f.send(p)
	f.statSN++
}

// collect reads the Data-Out sequence of one R2T into dst, and checks its form.
func (f *fake) collect(dst []byte, ttt, offset, length uint32) {
	for sn, at := uint32(0), offset; at < offset+length; sn++ {
		p := f.read()
		last := p.h[1]&final != 0
		at += uint32(len(p.data))
		if p.opcode() != dataOut || p.u32(20) != ttt || p.u32(36) != sn ||
			p.u32(40)+uint32(len(p.data)) != at || at > offset+length ||
			last != (at == offset+length) {
			f.t.Errorf("Data-Out %d of R2T %d: header %x", sn, ttt, p.h)
			panic(errEnd)
		}
		copy(dst[p.u32(40):], p.data)
	}
}

// drain answers everything with GOOD until the initiator logs out.
func (f *fake) drain() {
	for {
		p := f.command()
		switch p.opcode() {
		case scsiCommand:
			f.respond(p, good, nil)
		case logoutRequest:
			reply := &pdu{}
			reply.h[0], reply.h[1] = logoutResponse, final
			copy(reply.h[16:20], p.h[16:20])
			f.send(reply)
			panic(errEnd)
		}
	}
}
