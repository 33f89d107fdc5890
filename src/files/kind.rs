//! Kinds of files by the endings of their names.
//!
//! An ending without a meaning, or with several, is in no list: the callers (`batch` over a folder, `inspect`, error
//! messages) then look at the content.

use std::path::Path;

/// Kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// A video that FFmpeg opens.
    Video,
    /// An image, which is a video only in a directory of frames.
    Image,
    /// Sound alone.
    Audio,
    /// Text: documents, subtitles, code, tables.
    Text,
    /// A list of media files.
    Playlist,
    /// A segment of a video that cannot be opened alone.
    Segment,
    /// An unfinished download or copy.
    Partial,
    /// An archive or a compressed file.
    Archive,
    /// Weights of a model.
    Weights,
    /// Other data: databases, programs, fonts, office documents.
    Data,
}

/// Endings of each kind, in lower case, between spaces.
const ENDINGS: [(FileKind, &str); 10] = [
    (
        FileKind::Video,
        "264 265 266 3g2 3gp 3gp2 3gpp 3gpp2 4xm amv apng asf av1 avc avi avs2 avs3 bik bk2 cavs cdxl cpk dav dif \
         divx dnxhd dnxhr drc dv dvr-ms dvr evo f4p f4v flc fli flic flv gif gifv gxf h261 h263 h264 h265 h266 \
         h26l hevc insv ipu ismv ivf ivr j2c jv k3g kux lrv lvf lxf m1v m2p m2t m2ts m2v m4v mj2 mjp2 mjpeg mjpg \
         mk3d mkv moflex mov mp2v mp4 mp4v mpe mpeg mpeg1 mpeg2 mpeg4 mpg mpg2 mpg4 mpv mpv2 mqv mts mtv mve mxf \
         mxg nsv nut nuv obu ogm ogv ogx pmp pva qt rcv rm rmvb roq rv sdv smk svi swf tod tp trp ts ty ty+ vc1 \
         vc2 vdr viv vivo vob vp6 vp7 vp8 vp9 vqa vro vvc webm wm wmv wtv xmv xesc xvid y4m yop",
    ),
    (
        FileKind::Image,
        "3fr ai arw avif bmp cr2 cr3 crw dcr dds dng dpx emf eps exr fit fits hdr heic heif icns ico j2k jfif jif \
         jls jp2 jpe jpeg jpf jpg jpx jxl jxr kdc mng mrw nef nrw orf pam pbm pcx pef pfm pgm png ppm psb psd qoi \
         raf rw2 sgi srw svg svgz tga thm tif tiff wbmp webp wmf x3f xbm xcf xpm",
    ),
    (
        FileKind::Audio,
        "aa aac aax ac3 ac4 adts aif aifc aiff alac amr ape au caf dff dsf dts dtshd eac3 flac gsm it kar m4a m4b \
         m4p m4r mid midi mka mlp mp1 mp2 mp3 mpa mpc oga opus ra s3m shn snd spx tak thd truehd tta voc w64 wav \
         weba wma wv xm",
    ),
    (
        FileKind::Text,
        "adoc ass bash bat bib c cc cfg cmake cmd conf cpp cs css csv cue cxx diff diz dfxp edl env eml fcpxml \
         geojson go gpx h hpp htm html ini ipynb java js json json5 jsonl jsx kml kt less log lrc lua m md mhtml \
         ndjson nfo org otio patch php pl plist properties ps1 py r rb readme rs rst rtf sass sbv scala scc scss \
         sh smi sql srt srv1 srv2 srv3 ssa stl sub svelte swift tcl tex text toml tsv tsx ttml txt url usf vtt vue \
         webloc xhtml xml xmp xsl yaml yml",
    ),
    (FileKind::Playlist, "asx m3u m3u8 mpd mpls pls ram wpl wvx xspf"),
    (FileKind::Segment, "bup clpi cmfa cmft cmfv cpi f4f ifo ism ismc m4s"),
    (
        FileKind::Partial,
        "!bt !qb !ut aria2 bc! crdownload dctmp download fdmdownload filepart opdownload part partial td ytdl",
    ),
    (
        FileKind::Archive,
        "7z ace apk ar arj bz bz2 cab cbr cbz cpio deb dmg ear gz img iso jar lha lz lz4 lzma lzo rar rpm sit tar \
         taz tbz tbz2 tgz txz tzst war whl xz z zip zipx zst zstd",
    ),
    (FileKind::Weights, "bin ckpt ggml gguf h5 keras mlmodel onnx pb pt pth safetensors tflite"),
    (
        FileKind::Data,
        "a aae accdb arrow asc avro blend class crc crt csr dat-journal db db3 db-journal db-shm db-wal dbf dll \
         doc docx duckdb dylib eot epub exe feather fla hdf hdf5 idx ind ini~ key ldb lib lnk lock mat md5 mdb mdf \
         mobi msi npy npz nzb o odg odp ods odt orc otf par2 parquet pdf pem pickle pid pkl ppt pptx prproj psv \
         pyc pyd pyo sav sfv sha1 sha256 sha512 sig so sqlite sqlite3 sqlite-shm sqlite-wal swo swp sys torrent \
         ttc ttf veg wasm whisper woff woff2 xls xlsb xlsm xlsx",
    ),
];

/// Returns the kind that the ending of a file's name stands for, in either case; `None` for an unknown or ambiguous
/// ending.
pub fn kind_of(path: &Path) -> Option<FileKind> {
    let ending = path.extension()?.to_str()?.to_ascii_lowercase();
    let is_known = |(_, endings): &&(FileKind, &str)| endings.split_ascii_whitespace().any(|known| known == ending);
    ENDINGS.iter().find(is_known).map(|(kind, _)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_compared_without_case() {
        for (name, kind) in [
            ("VTS_01_1.VOB", Some(FileKind::Video)),
            ("a.m2ts", Some(FileKind::Video)),
            ("a.MTS", Some(FileKind::Video)),
            ("camera.264", Some(FileKind::Video)),
            ("raw.y4m", Some(FileKind::Video)),
            ("show.wtv", Some(FileKind::Video)),
            ("show.dvr-ms", Some(FileKind::Video)),
            ("a.mp4.part", Some(FileKind::Partial)),
            ("a.mp4.crdownload", Some(FileKind::Partial)),
            ("a.JPG", Some(FileKind::Image)),
            ("a.srt", Some(FileKind::Text)),
            ("a.m4a", Some(FileKind::Audio)),
            ("model.safetensors", Some(FileKind::Weights)),
            ("Thumbs.db", Some(FileKind::Data)),
            ("a.m3u8", Some(FileKind::Playlist)),
            ("noending", None),
            ("a.dat", None),
            ("a.ogg", None),
            ("talk.2019", None),
        ] {
            assert_eq!(kind_of(Path::new(name)), kind, "{name}");
        }
    }

    #[test]
    fn every_ending_is_of_one_kind_and_in_lower_case() {
        let mut seen = std::collections::BTreeMap::new();
        for (kind, endings) in ENDINGS {
            for ending in endings.split_ascii_whitespace() {
                assert_eq!(seen.insert(ending, kind), None, "{ending}");
                assert_eq!(ending, ending.to_ascii_lowercase());
            }
        }
    }
}
