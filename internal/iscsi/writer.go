package iscsi

import (
	"fmt"
	"net"
)

// batchPDUs is how many PDUs go into one vectored write: three buffers each stays far below the
// 1024 that the kernel takes at once.
const batchPDUs = 64

// zeroPad is what data segments are padded with.
var zeroPad [3]byte

// writer turns entries of the outbox into bytes on the connection. Headers are built in a slab of
// its own; data is sent from where the caller has it.
type writer struct {
	conn    net.Conn
	segment int // data that the target takes in one PDU
	headers [batchPDUs]header
	used    int
	buffers net.Buffers
	vector  [batchPDUs * 3][]byte
}

// writeLoop sends the outbox until the session ends.
func (s *Session) writeLoop() error {
	w := &writer{conn: s.conn, segment: s.param.targetSegment}
	w.reset()
	for {
		item, unsolicited, ok := s.next()
		if !ok {
			return nil
		}
		err := s.send(w, item, unsolicited)
		s.sent(item.task)
		if err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
}

// next waits for the next entry to send: a reply if there is one, else a command if the target's
// window admits it. unsolicited is how much of a command's data is sent with it. ok is false when
// the session has ended.
func (s *Session) next() (item outgoing, unsolicited int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.err == nil {
		if len(s.replies) > 0 {
			item = s.replies[0]
			s.replies[0] = outgoing{} // let go of the caller's memory
			s.replies = s.replies[1:]
			if item.task == nil {
				item.header.setCmdSN(s.cmdSN)
			} else {
				item.task.queued--
				if item.task.complete {
					continue // the target gave up on the command before taking its data
				}
				item.task.writing = true
			}
			item.header.setExpStatSN(s.expStatSN)
			return item, 0, true
		}
		if len(s.commands) > 0 && int32(s.maxCmdSN-s.cmdSN) >= 0 {
			t := s.commands[0]
			s.commands[0] = nil
			s.commands = s.commands[1:]
			t.writing = true
			item, unsolicited = s.command(t)
			s.cmdSN++
			return item, unsolicited, true
		}
		s.wake.Wait()
	}
	return item, 0, false
}

// command builds the header of a SCSI Command PDU (RFC 7143 11.3). The entry covers the data that
// rides in that PDU; unsolicited is what follows in Data-Out PDUs that nobody asked for.
func (s *Session) command(t *task) (item outgoing, unsolicited int) {
	h := newHeader(opCommand)
	h[1] = flagFinal | attrSimple
	copy(h[8:16], s.lun[:])
	h.setTag(t.tag)
	h.setCmdSN(s.cmdSN)
	h.setExpStatSN(s.expStatSN)
	copy(h[32:48], t.cdb[:])
	item.task = t
	switch {
	case t.in != nil:
		h[1] |= flagRead
		h.setUint32(20, uint32(len(t.in)))
	case t.out != nil:
		h[1] |= flagWrite
		h.setUint32(20, uint32(len(t.out)))
		first := min(len(t.out), s.param.firstBurst)
		if s.param.immediateData {
			item.length = min(first, s.param.targetSegment)
		}
		if !s.param.initialR2T {
			unsolicited = first - item.length
		}
		if unsolicited > 0 {
			h[1] &^= flagFinal
		}
	}
	item.header = h
	return item, unsolicited
}

// send writes one entry. Only Data-Out is ever longer than one PDU.
func (s *Session) send(w *writer, item outgoing, unsolicited int) error {
	if item.header.opcode() == opDataOut {
		return w.sendData(item)
	}
	var data []byte
	if item.task != nil {
		data = item.task.out[:item.length]
	}
	w.add(&item.header, data)
	if unsolicited == 0 {
		return w.flush()
	}
	h := newHeader(opDataOut)
	copy(h[8:16], s.lun[:])
	h.setTag(item.task.tag)
	h.setTransferTag(noTag)
	h.setExpStatSN(item.header.uint32(28))
	return w.sendData(outgoing{header: h, task: item.task, offset: item.length, length: unsolicited})
}

// sendData writes one sequence of Data-Out PDUs (RFC 7143 11.7), the last with the final bit.
func (w *writer) sendData(item outgoing) error {
	end := item.offset + item.length
	for sn, at := uint32(0), item.offset; at < end; sn++ {
		n := min(end-at, w.segment)
		h := item.header
		if at+n == end {
			h[1] |= flagFinal
		}
		h.setUint32(36, sn)
		h.setUint32(40, uint32(at))
		w.add(&h, item.task.out[at:at+n])
		at += n
		if w.used == batchPDUs {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
	return w.flush()
}

// add appends one PDU to the batch.
func (w *writer) add(h *header, data []byte) {
	slot := &w.headers[w.used]
	w.used++
	*slot = *h
	slot.setDataLen(len(data))
	w.buffers = append(w.buffers, slot[:])
	if len(data) > 0 {
		w.buffers = append(w.buffers, data)
	}
	if pad := padLen(len(data)); pad > 0 {
		w.buffers = append(w.buffers, zeroPad[:pad])
	}
}

// flush writes the batch in one vectored write.
func (w *writer) flush() error {
	if w.used == 0 {
		return nil
	}
	_, err := w.buffers.WriteTo(w.conn)
	w.reset()
	return err
}

// reset empties the batch; WriteTo has consumed the slice but not the array behind it.
func (w *writer) reset() {
	w.used = 0
	clear(w.vector[:])
	w.buffers = w.vector[:0]
}

// sent notes that the writer holds no reference to the task's data any more, and lets its caller
// go if the outcome came in meanwhile.
func (s *Session) sent(t *task) {
	if t == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t.writing = false
	if t.complete {
		close(t.done)
	}
}
