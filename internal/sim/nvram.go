package sim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unicode/utf16"
)

// The store of the firmware's variables, as EDK2 lays it out (VariableFormat.h, authenticated variables): a
// firmware volume with its header, the header of the store, and one variable after the other, each with a
// header, a name of UTF-16 and data, up to the first that does not begin with startID. What is not written is
// all ones, and writing clears bits: so a state is taken back.
const (
	volumeHeaderLength = 48 // offset in the header of the volume
	storeHeader        = 28 // bytes
	storeSize          = 16 // offset in the header of the store
	variableHeader     = 60 // bytes
	startID            = 0x55aa
	stateAdded         = 0x3f
	deletedMask        = 0xfd
	// keptEverywhere are the attributes of variables that outlive a reset and that software sees.
	keptEverywhere = 7
)

// globalVariable is EFI_GLOBAL_VARIABLE, as it lies in memory.
var globalVariable = []byte{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03,
	0x2b, 0x8c}

// bootOption is the number of the boot option that bootNext makes. The firmware counts its own from 0.
const bootOption = 0x9999

// bootNext has firmware boot a URI once, before anything in its boot order. The device path has no device:
// every network card is tried (UEFI specification, short-form URI device path). path is the file with the
// variables.
func bootNext(path, uri string) error {
	file, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("UEFI variables: %w", err)
	}
	err = errors.Join(
		setVariable(file, fmt.Sprintf("Boot%04X", bootOption), loadOption("BMC", uri)),
		setVariable(file, "BootNext", binary.LittleEndian.AppendUint16(nil, bootOption)))
	if err != nil {
		return fmt.Errorf("UEFI variables: %w", err)
	}
	return os.WriteFile(path, file, 0o644)
}

// loadOption is a boot option (EFI_LOAD_OPTION) that is active.
func loadOption(description, uri string) []byte {
	path := append([]byte{3, 24}, binary.LittleEndian.AppendUint16(nil, uint16(4+len(uri)))...)
	path = append(path, uri...)
	path = append(path, 0x7f, 0xff, 4, 0) // its end
	option := binary.LittleEndian.AppendUint32(nil, 1)
	option = binary.LittleEndian.AppendUint16(option, uint16(len(path)))
	return append(append(option, utf16Text(description)...), path...)
}

// utf16Text is a text of UTF-16 with its end.
func utf16Text(s string) []byte {
	var out []byte
	for _, u := range append(utf16.Encode([]rune(s)), 0) {
		out = binary.LittleEndian.AppendUint16(out, u)
	}
	return out
}

// setVariable writes a global variable into a store of variables, in place of the one that has its name.
func setVariable(file []byte, name string, data []byte) error {
	if len(file) < volumeHeaderLength+2 {
		return errors.New("the file is too short")
	}
	store := int(binary.LittleEndian.Uint16(file[volumeHeaderLength:]))
	if len(file) < store+storeHeader {
		return errors.New("the file is too short")
	}
	end := store + int(binary.LittleEndian.Uint32(file[store+storeSize:]))
	if end > len(file) || end < store {
		return errors.New("the store is longer than the file")
	}
	text := utf16Text(name)
	at := store + storeHeader
	for at+variableHeader <= end && binary.LittleEndian.Uint16(file[at:]) == startID {
		v := file[at:end]
		nameSize, dataSize := int(binary.LittleEndian.Uint32(v[36:])), int(binary.LittleEndian.Uint32(v[40:]))
		if nameSize > len(v) || dataSize > len(v) || variableHeader+nameSize+dataSize > len(v) {
			return errors.New("a variable is longer than the store")
		}
		if bytes.Equal(v[44:variableHeader], globalVariable) &&
			bytes.Equal(v[variableHeader:variableHeader+nameSize], text) {
			v[2] &= deletedMask
		}
		at += aligned(variableHeader + nameSize + dataSize)
	}
	header := binary.LittleEndian.AppendUint16(nil, startID)
	header = append(header, stateAdded, 0)
	header = binary.LittleEndian.AppendUint32(header, keptEverywhere)
	header = append(header, make([]byte, 28)...) // not authenticated: no count, no time, no key
	header = binary.LittleEndian.AppendUint32(header, uint32(len(text)))
	header = binary.LittleEndian.AppendUint32(header, uint32(len(data)))
	v := append(append(append(header, globalVariable...), text...), data...)
	if at+aligned(len(v)) > end {
		return fmt.Errorf("no room for %s; remove the machine's directory", name)
	}
	copy(file[at:], v)
	return nil
}

// aligned is the length of a variable with what lies between it and the next.
func aligned(n int) int { return (n + 3) &^ 3 }
