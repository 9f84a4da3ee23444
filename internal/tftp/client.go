package tftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"
)

// Options are what [Get] asks the server for. The zero value is plain RFC 1350.
type Options struct {
	BlockSize int           // RFC 2348; 0 does not ask
	Window    int           // RFC 7440; 0 does not ask
	Timeout   time.Duration // before a packet is sent again; default 1 s, kept to ourselves
	Retries   int           // default 6
	Probe     bool          // ask for the size, then abort with ERROR 8 as EDK2 does
}

// Get fetches path from the server at addr ("10.77.0.1:69") into w and returns the bytes
// written; with Options.Probe it returns the size the server told and writes nothing. An
// ERROR packet of the server is returned as *[RemoteError].
func Get(ctx context.Context, addr, path string, w io.Writer, o Options) (int64, error) {
	to, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return 0, fmt.Errorf("resolve TFTP server %s: %w", addr, err)
	}
	conn, err := net.ListenUDP("udp", nil)
	if err != nil {
		return 0, fmt.Errorf("open TFTP socket: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	c := &client{ctx: ctx, conn: conn, to: to, out: w, o: o, block: 512, window: 1}
	if c.o.Timeout == 0 {
		c.o.Timeout = time.Second
	}
	if c.o.Retries == 0 {
		c.o.Retries = 6
	}
	n, err := c.get(path)
	if err != nil {
		return n, fmt.Errorf("get %s from %s: %w", path, addr, err)
	}
	return n, nil
}

// client is one download.
type client struct {
	ctx    context.Context // of Get
	conn   *net.UDPConn
	to     *net.UDPAddr // port 69, then the transfer's port
	fixed  bool         // to is the transfer's port
	out    io.Writer
	o      Options
	block  int
	window int
	size   int64 // by tsize; 0 if not told
}

func (c *client) get(path string) (int64, error) {
	request := rrq{op: opRead, path: path, mode: "octet"}
	add := func(name string, n int) {
		request.options = append(request.options, option{name, strconv.Itoa(n)})
	}
	if c.o.Probe || c.o.BlockSize > 0 {
		add("tsize", 0)
	}
	if c.o.BlockSize > 0 {
		add("blksize", c.o.BlockSize)
	}
	if c.o.Window > 0 {
		add("windowsize", c.o.Window)
	}
	var (
		say      = encodeRequest(request)
		buf      = make([]byte, max(c.o.BlockSize, 512)+4)
		last     uint16 // last block written
		total    int64
		unacked  int // blocks since the last acknowledgement
		sayAgain = true
	)
	for tries := 0; ; {
		if sayAgain {
			if _, err := c.conn.WriteToUDP(say, c.to); err != nil {
				return total, err
			}
			sayAgain = false
		}
		p, err := c.receive(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) && c.ctx.Err() == nil {
			if tries++; tries > c.o.Retries {
				return total, errors.New("server fell silent")
			}
			sayAgain, unacked = true, 0
			continue
		}
		if err != nil {
			return total, errors.Join(c.ctx.Err(), err)
		}
		switch {
		case len(p) < 2:
		case binary.BigEndian.Uint16(p) == opError:
			remote, err := parseError(p)
			if err != nil {
				return total, err
			}
			return total, remote
		case binary.BigEndian.Uint16(p) == opOACK && last == 0:
			if err := c.agree(p); err != nil {
				return total, err
			}
			if c.o.Probe {
				c.conn.WriteToUDP(encodeError(CodeOption, "size probe"), c.to)
				return c.size, nil
			}
			say, sayAgain, tries = encodeAck(0), true, 0
		case binary.BigEndian.Uint16(p) == opData && len(p) >= 4:
			number := binary.BigEndian.Uint16(p[2:])
			if number != last+1 {
				// The newest block once more: our acknowledgement was lost. A later block:
				// there is a gap, which is said once (RFC 7440 section 4).
				gap := int16(number-last) > 0
				sayAgain = number == last || gap && unacked >= 0
				if gap {
					unacked = -1
				}
				continue
			}
			n, err := c.out.Write(p[4:])
			total += int64(n)
			if err != nil {
				return total, err
			}
			last, tries = number, 0
			unacked = max(unacked, 0) + 1
			say = encodeAck(last)
			if len(p) < c.block+4 {
				_, err := c.conn.WriteToUDP(say, c.to)
				return total, err
			}
			if sayAgain = unacked >= c.window; sayAgain {
				unacked = 0
			}
		}
	}
}

// receive returns the next packet of the transfer; packets of other ports are dropped.
func (c *client) receive(buf []byte) ([]byte, error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(c.o.Timeout)); err != nil {
		return nil, err
	}
	for {
		if err := c.ctx.Err(); err != nil {
			return nil, err
		}
		n, from, err := c.conn.ReadFromUDP(buf)
		if err != nil {
			return nil, err
		}
		if !c.fixed && from.IP.Equal(c.to.IP) {
			c.to, c.fixed = from, true
		}
		if from.IP.Equal(c.to.IP) && from.Port == c.to.Port {
			return buf[:n], nil
		}
	}
}

// agree takes over what the server acknowledged; more than was asked is an error.
func (c *client) agree(p []byte) error {
	oack, err := parseOACK(p)
	if err != nil {
		return err
	}
	if _, ok := oack.value("blksize"); ok {
		n, ok := oack.number("blksize", 8, int64(c.o.BlockSize))
		if !ok {
			return fmt.Errorf("block size was not asked for: %w", errPacket)
		}
		c.block = int(n)
	}
	if _, ok := oack.value("windowsize"); ok {
		n, ok := oack.number("windowsize", 1, int64(c.o.Window))
		if !ok {
			return fmt.Errorf("window size was not asked for: %w", errPacket)
		}
		c.window = int(n)
	}
	c.size, _ = oack.number("tsize", 0, 1<<62)
	return nil
}
