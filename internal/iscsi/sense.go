package iscsi

import (
	"fmt"
)

// SenseKey is the first word of what a disk says about a failed command (SPC-4 table 48).
type SenseKey uint8

// The sense keys that callers may want to tell apart.
const (
	SenseNotReady       SenseKey = 0x2
	SenseMediumError    SenseKey = 0x3
	SenseHardwareError  SenseKey = 0x4
	SenseIllegalRequest SenseKey = 0x5
	SenseUnitAttention  SenseKey = 0x6
	SenseDataProtect    SenseKey = 0x7
	SenseAbortedCommand SenseKey = 0xb
)

var senseKeyText = [16]string{
	"no sense", "recovered error", "not ready", "medium error",
	"hardware error", "illegal request", "unit attention", "data protect",
	"blank check", "vendor specific", "copy aborted", "aborted command",
	"reserved", "volume overflow", "miscompare", "completed",
}

// String is the name of the key in SPC-4.
func (k SenseKey) String() string { return senseKeyText[k&0xf] }

// SenseError is a SCSI command that the disk refused with CHECK CONDITION.
type SenseError struct {
	Op   string // what was asked, such as "write 8 blocks at block 0"
	Key  SenseKey
	ASC  uint8 // additional sense code
	ASCQ uint8 // its qualifier
}

// senseText says in words, and with what to do, the codes that a disk on the network gives
// (SPC-4 table F.1).
var senseText = map[uint16]string{
	0x0300: "write fault in the device; replace the disk",
	0x0400: "the disk is not ready",
	0x0401: "the disk is becoming ready; try again in a moment",
	0x0402: "the disk waits for a start command; start it on the target",
	0x0403: "the disk is not ready and needs somebody to look at it",
	0x0800: "the target cannot reach its disk; look at its log",
	0x0c00: "write error; replace the disk",
	0x0c02: "write error, reallocation failed; replace the disk",
	0x1100: "unrecovered read error; the target's disk is broken, or full (tgt says this of writes)",
	0x2000: "the disk does not know this command",
	0x2100: "the block address is out of range; the disk is smaller than was assumed",
	0x2400: "the disk does not take a field of this command",
	0x2500: "there is no such LUN on the target; check the LUN",
	0x2600: "the disk does not take a parameter of this command",
	0x2700: "the target's medium is write protected; make the LUN writable",
	0x2701: "the target's medium is write protected by hardware; make the LUN writable",
	0x2702: "the target's medium is write protected by software; make the LUN writable",
	0x2707: "out of space: the target could not allocate blocks; grow its thin pool",
	0x2900: "the target was powered on or reset",
	0x2a01: "mode parameters changed",
	0x2a09: "the capacity of the disk changed",
	0x3807: "the target's thin pool is almost full; grow it",
	0x3a00: "no medium in the drive",
	0x3f0e: "the LUNs of the target changed",
	0x4400: "internal failure of the target; look at its log",
	0x5500: "the target is out of resources; try again later",
}

// losesCache tells whether the disk reports something that may have cost it the contents of its
// write cache: power on, or a reset of unknown or internal kind (SPC-4 table F.1).
func (e *SenseError) losesCache() bool {
	return e.Key == SenseUnitAttention && e.ASC == 0x29 &&
		(e.ASCQ == 0x00 || e.ASCQ == 0x01 || e.ASCQ == 0x04)
}

// Error says what failed, in words and in the numbers that a vendor asks for.
func (e *SenseError) Error() string {
	text, ok := senseText[uint16(e.ASC)<<8|uint16(e.ASCQ)]
	if !ok {
		text, ok = senseText[uint16(e.ASC)<<8]
	}
	if !ok {
		text = "see the target's log"
	}
	return fmt.Sprintf("%s: %s: %s (sense %xh/%02xh/%02xh)",
		e.Op, e.Key, text, uint8(e.Key), e.ASC, e.ASCQ)
}

// parseSense decodes fixed and descriptor format sense data (SPC-4 4.5). Data too short to hold a
// code gives zeros, data of an unknown format an error.
func parseSense(op string, b []byte) (*SenseError, error) {
	e := &SenseError{Op: op}
	if len(b) == 0 {
		return e, fmt.Errorf("%s: %w: CHECK CONDITION without sense data", op, errProtocol)
	}
	at := func(i int) byte {
		if i < len(b) {
			return b[i]
		}
		return 0
	}
	switch format := b[0] & 0x7f; format {
	case 0x70, 0x71:
		e.Key, e.ASC, e.ASCQ = SenseKey(at(2)&0xf), at(12), at(13)
	case 0x72, 0x73:
		e.Key, e.ASC, e.ASCQ = SenseKey(at(1)&0xf), at(2), at(3)
	default:
		return e, fmt.Errorf("%s: %w: sense data of format %02xh", op, errProtocol, format)
	}
	return e, nil
}
