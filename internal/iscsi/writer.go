package iscsi

import (
	"encoding/binary"
	"fmt"
	"net"
)

// batchPDUs is how many PDUs go into one vectored write: five buffers each stays far below the
// 1024 that the kernel takes at once.
const batchPDUs = 64

// zeroPad is what data segments are padded with.
var zeroPad [3]byte

// writer turns entries of the outbox into bytes on the connection. Headers are built in a slab of
// its own; data is sent from where the caller has it.
type writer struct {
	conn    net.Conn
	param   params
	headers [batchPDUs]header
	digests [batchPDUs][2][digestLen]byte // of header and data
	used    int
	buffers net.Buffers
	vector  [batchPDUs * 5][]byte
}

// writeLoop sends the outbox until the session ends.
func (l *link) writeLoop() error {
	w := &writer{conn: l.conn, param: l.param}
	w.reset()
	for {
		item, unsolicited, ok := l.next()
		if !ok {
			return nil
		}
		err := l.send(w, item, unsolicited)
		l.sent(item.task)
		if err != nil {
			return fmt.Errorf("send: %w", explain(err))
		}
	}
}

// next waits for the next entry to send: a reply if there is one, else a command if the target's
// window admits it. unsolicited is how much of a command's data is sent with it. ok is false when
// the session has ended.
func (l *link) next() (item outgoing, unsolicited int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.err == nil {
		if len(l.replies) > 0 {
			item = l.replies[0]
			l.replies[0] = outgoing{} // let go of the caller's memory
			l.replies = l.replies[1:]
			if item.task == nil {
				item.header.setCmdSN(l.cmdSN)
			} else {
				item.task.queued--
				if item.task.complete {
					continue // the target gave up on the command before taking its data
				}
				item.task.writing = true
			}
			item.header.setExpStatSN(l.expStatSN)
			return item, 0, true
		}
		if len(l.commands) > 0 && int32(l.maxCmdSN-l.cmdSN) >= 0 {
			t := l.commands[0]
			l.commands[0] = nil
			l.commands = l.commands[1:]
			t.writing = true
			if t.function != 0 {
				return outgoing{header: l.management(t), task: t}, 0, true
			}
			item, unsolicited = l.command(t)
			l.cmdSN++
			return item, unsolicited, true
		}
		l.wake.Wait()
	}
	return item, 0, false
}

// management builds the header of a task management request, which takes no place in the order
// of commands (RFC 7143 11.5).
func (l *link) management(t *task) header {
	h := newHeader(opManageRequest)
	h[0] |= flagImmediate
	h[1] = flagFinal | t.function
	copy(h[8:16], l.lun[:])
	h.setTag(t.tag)
	h.setTransferTag(noTag) // in its place: no task is referred to
	h.setCmdSN(l.cmdSN)
	h.setExpStatSN(l.expStatSN)
	return h
}

// command builds the header of a SCSI Command PDU (RFC 7143 11.3). The entry covers the data that
// rides in that PDU; unsolicited is what follows in Data-Out PDUs that nobody asked for.
func (l *link) command(t *task) (item outgoing, unsolicited int) {
	h := newHeader(opCommand)
	h[1] = flagFinal | attrSimple
	copy(h[8:16], l.lun[:])
	h.setTag(t.tag)
	h.setCmdSN(l.cmdSN)
	h.setExpStatSN(l.expStatSN)
	copy(h[32:48], t.cdb[:])
	item.task = t
	switch {
	case t.in != nil:
		h[1] |= flagRead
		h.setUint32(20, uint32(len(t.in)))
	case t.out != nil:
		h[1] |= flagWrite
		h.setUint32(20, uint32(len(t.out)))
		first := min(len(t.out), l.param.firstBurst)
		if l.param.immediateData {
			item.length = min(first, l.param.targetSegment)
		}
		if !l.param.initialR2T {
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
func (l *link) send(w *writer, item outgoing, unsolicited int) error {
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
	copy(h[8:16], l.lun[:])
	h.setTag(item.task.tag)
	h.setTransferTag(noTag)
	h.setExpStatSN(item.header.uint32(28))
	return w.sendData(outgoing{header: h, task: item.task, offset: item.length, length: unsolicited})
}

// sendData writes one sequence of Data-Out PDUs (RFC 7143 11.7), the last with the final bit.
func (w *writer) sendData(item outgoing) error {
	end := item.offset + item.length
	for sn, at := uint32(0), item.offset; at < end; sn++ {
		n := min(end-at, w.param.targetSegment)
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
	slot, digests := &w.headers[w.used], &w.digests[w.used]
	w.used++
	*slot = *h
	slot.setDataLen(len(data))
	w.buffers = append(w.buffers, slot[:])
	if w.param.headerDigest == crc32c {
		binary.LittleEndian.PutUint32(digests[0][:], checksum(0, slot[:]))
		w.buffers = append(w.buffers, digests[0][:])
	}
	if len(data) == 0 {
		return
	}
	pad := zeroPad[:padLen(len(data))]
	w.buffers = append(w.buffers, data)
	if len(pad) > 0 {
		w.buffers = append(w.buffers, pad)
	}
	if w.param.dataDigest == crc32c {
		binary.LittleEndian.PutUint32(digests[1][:], checksum(checksum(0, data), pad))
		w.buffers = append(w.buffers, digests[1][:])
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
func (l *link) sent(t *task) {
	if t == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	t.writing = false
	if t.complete {
		close(t.done)
	}
}
