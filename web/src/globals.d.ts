/** Names that the build fills in. */
declare const ORT_FOLDER: string;
declare const WORKER: string;
declare const VERSION: string;
declare const SHELL: string[];
